"""What an engine made of a prompt, held against the trainer's: tokens, times, positions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import ProcessorMixin

from invert_rl.encoding import EncodedPrompt
from invert_rl.parity.engines import Engine, Reply
from invert_rl.parity.reference import Reference, Variant

TIME = re.compile(r"<(\d+(?:\.\d+)?) seconds>")
"""How families after Qwen2.5-VL write the time of a grid step into the prompt."""
WRITTEN_LIMIT, TOLD_LIMIT = 0.051, 0.002
"""Seconds by which times may differ that are written into the prompt, in tenths, and that are told as a number."""
PADS = re.compile(r"(?:<\|(?:video|image)_pad\|>)+")


@dataclass(frozen=True)
class Check:
    """One thing that was compared; ``cause`` says what is wrong in plain words, None where nothing is."""

    name: str
    ok: bool
    value: float | None
    limit: float | None
    cause: str | None = None

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def prompt_checks(processor: ProcessorMixin, prompts: Sequence[EncodedPrompt], replies: Sequence[Reply]) -> list[Check]:
    """Placeholders, words and written times of the prompts as the engine expanded them; none where it did not."""
    tokenizer = processor.tokenizer
    pad = tokenizer.convert_tokens_to_ids("<|video_pad|>")
    counts = words = 0
    late = 0.0
    for prompt, reply in zip(prompts, replies, strict=True):
        if reply.prompt_ids is None or reply.prompt_ids == prompt.input_ids:
            continue
        ours, theirs = prompt.input_ids, reply.prompt_ids
        counts = max(counts, abs(ours.count(pad) - theirs.count(pad)))
        texts = [tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in (ours, theirs)]
        times = [[float(time) for time in TIME.findall(text)] for text in texts]
        said = [TIME.sub("", PADS.sub("", text)) for text in texts]
        if ours.count(pad) == theirs.count(pad):
            same_times = len(times[0]) == len(times[1])
            late = max([late, *(abs(a - b) for a, b in zip(*times, strict=True))]) if same_times else float("inf")
            words += said[0] != said[1] or times[0] == times[1]  # the same text, and yet other tokens
    checks = [
        Check(
            "placeholders",
            counts == 0,
            counts,
            0,
            None
            if counts == 0
            else f"wrong placeholder count: the engine has {counts} video tokens more or less than the trainer's "
            "processor; it samples, resizes or merges frames by itself (do_sample_frames, do_resize), or is given "
            "prompts that are expanded already",
        ),
        Check(
            "token_ids",
            words == 0,
            words,
            0,
            None
            if words == 0
            else f"other token ids in {words} prompts: another tokenizer or chat template, or text tokenized anew",
        ),
    ]
    if any(TIME.search(tokenizer.decode(prompt.input_ids)) for prompt in prompts):
        checks.append(_times(late, WRITTEN_LIMIT, "writes into the prompt"))
    return checks


def position_checks(engine: Engine, reference: Reference, prompts: Sequence[EncodedPrompt]) -> list[Check]:
    """Seconds between grid steps and M-RoPE rows that reached the engine's model; none where it cannot be looked at."""
    late, told, apart, stock = 0.0, False, 0, True
    seen = [(prompt, engine.seen(prompt)) for prompt in prompts]
    looked_at = [(prompt, found) for prompt, found in seen if found is not None]
    if len(looked_at) < len(prompts):
        return []
    for prompt, found in looked_at:
        if found.seconds is not None and prompt.second_per_grid_ts is not None:
            told = True
            late = max(late, abs(found.seconds - float(prompt.second_per_grid_ts[0])))
        apart = max(apart, _furthest(found.positions, reference.positions(prompt)))
        own = Variant(stock_positions=True, seconds=found.seconds)
        stock &= _furthest(found.positions, reference.positions(prompt, own)) == 0
    checks = [_times(late, TOLD_LIMIT, "is told")] if told else []
    cause = None
    if apart:
        cause = f"other M-RoPE rows, by up to {apart} places: "
        if stock:
            cause = (
                f"stock positions, by up to {apart} places: the engine counts as transformers does, where text after a "
                "video begins inside the video's own time, and not as Qwen2.5-VL was trained; use the versions in "
                "docs/vllm.md, or `use_trained_positions` on what makes them"
            )
        elif late > TOLD_LIMIT:
            cause += "they follow from the frame times above"
        else:
            cause += "another position rule; use the versions in docs/vllm.md"
    return [*checks, Check("positions", apart == 0, apart, 0, cause)]


def _times(late: float, limit: float, how: str) -> Check:
    ok = late <= limit
    cause = (
        f"wrong frame times, by up to {late:.3g} s: the engine {how} other times than the frames have; hand it each "
        "video's metadata (frames_indices, fps, total_num_frames), or it assumes a rate"
    )
    return Check("frame_times", ok, late, limit, None if ok else cause)


def _furthest(rows: torch.Tensor, others: torch.Tensor) -> int:
    """Largest difference of two prompts' positions; the longer one's length where they have not the same."""
    if rows.shape != others.shape:
        return max(rows.shape[1], others.shape[1])
    return int((rows.long() - others.long()).abs().max())
