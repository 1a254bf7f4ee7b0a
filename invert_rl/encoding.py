"""From a chat with one video to model inputs: one processor call for each different prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PretrainedConfig, ProcessorMixin

from data_prep.rows import Row
from invert_rl.video.clip import Clip
from invert_rl.video.errors import PromptTooLong


@dataclass(frozen=True)
class EncodedPrompt:
    """One prompt with its video, ready for the model; placeholders are already expanded."""

    input_ids: list[int]
    mm_token_type_ids: list[int]
    """0 text, 1 image, 2 video; same length as ``input_ids``."""
    pixel_values_videos: torch.Tensor
    """Patches of the video, shape ``(t * h * w, channels * temporal_patch * patch * patch)``."""
    video_grid_thw: torch.Tensor
    """Patch grid, shape ``(videos, 3)``: one row, as every prompt here has one video."""
    second_per_grid_ts: torch.Tensor | None
    """Seconds between frame groups, shape ``(videos,)``; None for Qwen3-VL, which writes times into the text."""
    unexpanded_ids: list[int] = field(default_factory=list)
    """The prompt with one placeholder token for the video, as vLLM takes it: it expands and processes by itself."""
    clip: Clip | None = None
    """The frames that ``pixel_values_videos`` was made of, shared with the store."""


class PromptEncoder:
    """Turns chats whose video part is decoded into `EncodedPrompt`s with a Qwen-VL processor.

    ``chat_template_kwargs`` go to the chat template, such as ``{"enable_thinking": False}``.
    """

    def __init__(self, processor: ProcessorMixin, chat_template_kwargs: Mapping[str, Any] | None = None) -> None:
        self.processor = processor
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        video_processor = processor.video_processor
        self.merge_length = video_processor.merge_size**2
        self.temporal_patch_size = video_processor.temporal_patch_size
        self.video_token_id = processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")

    def __call__(self, messages: list[dict[str, Any]], clip: Clip, add_generation_prompt: bool = True) -> EncodedPrompt:
        """Encode one chat that shows ``clip``; raises `ValueError` if placeholders and features differ in number."""
        text = self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt, **self.chat_template_kwargs
        )
        inputs = self.processor(
            text=[text],
            videos=[clip.frames],
            video_metadata=[clip.metadata()],
            do_sample_frames=False,
            do_resize=False,
            return_tensors="pt",
            return_mm_token_type_ids=True,
        )
        grid = inputs["video_grid_thw"]
        ids = inputs["input_ids"][0]
        placeholders = int((ids == self.video_token_id).sum())
        features = int(grid.prod()) // self.merge_length
        if placeholders != features:
            raise ValueError(f"{clip.path}: the prompt holds {placeholders} video placeholders for {features} features")
        return EncodedPrompt(
            input_ids=ids.tolist(),
            mm_token_type_ids=inputs["mm_token_type_ids"][0].tolist(),
            pixel_values_videos=inputs["pixel_values_videos"],
            video_grid_thw=grid,
            second_per_grid_ts=torch.tensor([clip.second_per_grid(self.temporal_patch_size)])
            if "second_per_grid_ts" in inputs
            else None,
            unexpanded_ids=self.processor.tokenizer(text)["input_ids"],
            clip=clip,
        )


def batch_inputs(prompts: Sequence[EncodedPrompt], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Left-padded model inputs of several prompts; text tensors are ``(batch, longest)``."""
    longest = max(len(prompt.input_ids) for prompt in prompts)

    def left_pad(values: list[int], padding: int) -> list[int]:
        return [padding] * (longest - len(values)) + values

    return {
        "input_ids": torch.tensor([left_pad(p.input_ids, pad_token_id) for p in prompts]),
        "attention_mask": torch.tensor([left_pad([1] * len(p.input_ids), 0) for p in prompts]),
        "mm_token_type_ids": torch.tensor([left_pad(p.mm_token_type_ids, 0) for p in prompts]),
        **video_inputs(prompts),
    }


def video_inputs(prompts: Sequence[EncodedPrompt]) -> dict[str, torch.Tensor]:
    """The video tensors of several prompts, one after the other, as the models take them; none without any video."""
    if not any(len(prompt.video_grid_thw) for prompt in prompts):
        return {}
    names = ["pixel_values_videos", "video_grid_thw"]
    if prompts[0].second_per_grid_ts is not None:
        names.append("second_per_grid_ts")
    return {name: torch.cat([getattr(prompt, name) for prompt in prompts]) for name in names}


@dataclass(frozen=True)
class PromptLimit:
    """How many tokens a prompt may have, its video included."""

    tokens: int | None
    """None: any number."""
    reason: str
    """What sets the limit, for messages."""

    def check(self, tokens: int, row: Row, task: str) -> None:
        """Raise `PromptTooLong`, which names the row and where it was read, where ``tokens`` do not fit."""
        if self.tokens is None or tokens <= self.tokens:
            return
        where = "".join(f", {part}" for part in (task, row.place) if part)
        raise PromptTooLong(
            f"{row.video} (row {row.id}{where})",
            f"the prompt has {tokens} tokens, more than {self.reason}; lower fps, max_frames or total_pixels, or leave "
            "the row out",
        )


def prompt_limit(
    config: PretrainedConfig, answer_tokens: int, most: int | None = None, engine: int | None = None
) -> PromptLimit:
    """The limit of a model that answers with up to ``answer_tokens``; ``most`` is the user's ``max_prompt_length``.

    ``engine`` is the number of places that vLLM has room for, where that is less than the model's. A model that states
    no number of positions sets no limit. Raises `ValueError` where the answer leaves no room.
    """
    if most is not None and (engine is None or most <= engine - answer_tokens):
        return PromptLimit(most, f"max_prompt_length {most}")
    known = (getattr(config.get_text_config(), "max_position_embeddings", None), engine)
    positions = min((places for places in known if places is not None), default=None)
    if positions is None:
        return PromptLimit(None, "")
    if answer_tokens >= positions:
        raise ValueError(
            f"answers of {answer_tokens} tokens leave no room for a prompt: the model has {positions} places"
        )
    room = int(positions) - answer_tokens
    answer = f" less the {answer_tokens} of an answer" if answer_tokens else ", the answer included"
    return PromptLimit(room, f"{room}, the model's {positions} places{answer}")
