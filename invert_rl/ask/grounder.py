"""`Grounder`: a checkpoint that answers questions about videos."""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import torch

from data_prep.decode import list_frames
from data_prep.errors import DataError, VideoError
from data_prep.rows import Row, Window
from invert_rl.ask.answer import OK, Answer
from invert_rl.ask.long_videos import OVERLAP, Candidate, merge, windows_over
from invert_rl.ask.reading import answer_of, check_query, read_windows
from invert_rl.described import description_of
from invert_rl.encoding import EncodedPrompt, PromptEncoder, batch_inputs, prompt_limit
from invert_rl.grpo.rollout import generate_completions
from invert_rl.models import CheckpointError, decoding_config, load_config, load_model, load_processor
from invert_rl.tasks import DEFAULT_TASK, Task, load_preset, messages, video_of
from invert_rl.tasks.options import complete_task_arguments
from invert_rl.toy.default import start_checkpoint
from invert_rl.video.options import FRAME_FIELDS, frame_options
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore
from rewards.pipelines import MASK, load_pipeline

BATCH = 8
"""Prompts answered at a time."""
LONGEST_ANSWER = 1024
"""Tokens of an answer where the model does not say how long its were in training."""


class Grounder:
    """A model that finds sentences in videos, asked as it was trained (`invert_rl.described`).

    Example:
        >>> Grounder("runs/grpo/model").ask("video.mp4", "person opens the door").windows
        [(12.4, 17.9)]

    Args:
        model: a checkpoint folder, an adapter, or a checkpoint on the hub; None: the tiny one that comes with the
            package, which knows nothing but the generated clips it was trained on.
        revision: of a checkpoint on the hub.
        device: "cpu", "cuda", …; None: a GPU if there is one.
        dtype: auto, bfloat16, float16 or float32.
        prompt: name of a prompt preset or a JSON file; None: the model's own.
        windows: "any" for one span a query, "all" for all of its moments; None: as the model was trained.
        max_new_tokens: longest answer; None: as in training.
        transformers_positions: Qwen2.5-VL positions as transformers counts them; None: as in training.
        decode_in_process: decode videos in this process; faster to start, but a video that crashes the decoder ends it.
        frames: fps, min_frames, max_frames, total_pixels, min_pixels, max_pixels, where they are not to be the model's.

    Raises `DataError` for a checkpoint or a setting that cannot be used.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
        prompt: str | None = None,
        windows: str | None = None,
        max_new_tokens: int | None = None,
        transformers_positions: bool | None = None,
        decode_in_process: bool = False,
        **frames: float | None,
    ) -> None:
        unknown = frames.keys() - FRAME_FIELDS.keys()
        if unknown:
            raise TypeError(f"Grounder: unknown setting {sorted(unknown)[0]!r}; frames are {', '.join(FRAME_FIELDS)}")
        self.name = str(model) if model is not None else start_checkpoint()
        args = argparse.Namespace(
            model=self.name,
            revision=revision,
            prompt=prompt,
            windows=windows,
            transformers_positions=transformers_positions,
            verb_pipeline=None,
            **{name: frames.get(name) for name in FRAME_FIELDS},
        )
        complete_task_arguments(args)
        self.verb_pipeline: str | None = args.verb_pipeline
        described = description_of(self.name, revision)
        self.max_new_tokens = max_new_tokens or described.get("max_new_tokens", LONGEST_ANSWER)
        self.preset = load_preset(args.prompt, (), args.windows)
        try:
            self.processor = load_processor(self.name, revision)
            patch = self.processor.video_processor.patch_size
            self.settings = FrameSettings(**frame_options(args), image_patch_size=patch)
            self.longest = prompt_limit(load_config(self.name, revision), self.max_new_tokens).tokens
            place = device or ("cuda" if torch.cuda.is_available() else "cpu")
            positions = not args.transformers_positions
            self.model = load_model(self.name, revision, positions, dtype=dtype).to(place).eval()
        except (CheckpointError, OSError) as error:
            raise DataError(f"model {self.name}: {error}") from error
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"settings: {error}") from error
        self.decode_in_process = decode_in_process
        self.encode = PromptEncoder(self.processor, self.preset.chat_template_kwargs)
        self._lock = threading.Lock()

    @property
    def window_seconds(self) -> float:
        """Longest video that the model sees whole at its frame rate, seconds."""
        return self.settings.max_frames / self.settings.fps

    @overload
    def ask(self, video: str | os.PathLike[str], query: str = "", **settings: Any) -> Answer: ...

    @overload
    def ask(
        self, video: str | os.PathLike[str], query: list[str] | tuple[str, ...], **settings: Any
    ) -> list[Answer]: ...

    def ask(
        self,
        video: str | os.PathLike[str],
        query: str | Sequence[str] = "",
        *,
        task: str = DEFAULT_TASK,
        start: float | None = None,
        end: float | None = None,
        window: float | None = None,
        overlap: float = OVERLAP,
        **unknown: Any,
    ) -> Answer | list[Answer]:
        """The model's answer to a query about a video file, or its answers to several queries, in their order.

        Args:
            video: a video file.
            query: a sentence, or several; tasks that ask for words on a segment (ar, vd) need none.
            task: tvg finds the sentence; vd describes, ar names the action, vc completes the sentence (verbs may be
                written as ``[]``) of the part from ``start`` to ``end``.
            start: first second that is shown; for tvg the part is seen as a video of its own.
            end: last second that is shown.
            window: seconds of the windows in which a longer video is seen; None: `window_seconds`, at least as short as
                the video is seen at its full frame rate; spans of all windows are merged.
            overlap: share of a window that the next one sees again, in [0, 1).

        Raises `VideoError` (a `DataError`) for a file that cannot be decoded and `DataError` for a query, task or part
        that cannot be asked.
        """
        if unknown:
            raise TypeError(f"ask: unknown setting {next(iter(unknown))!r}")
        queries = [query] if isinstance(query, str) else list(query)
        with self._lock:
            answers = self._answers(Path(video), queries, task, start, end, window, overlap)
        return answers[0] if isinstance(query, str) else answers

    def _answers(
        self,
        path: Path,
        queries: Sequence[str],
        name: str,
        start: float | None,
        end: float | None,
        window: float | None,
        overlap: float,
    ) -> list[Answer]:
        if name not in self.preset.tasks:
            raise DataError(f"task {name!r} is unknown to this model's prompts; use {', '.join(self.preset.tasks)}")
        if not 0 <= overlap < 1:
            raise DataError(f"overlap must be in [0, 1), found {overlap}")
        if window is not None and not window > 0:
            raise DataError(f"window must be a positive number of seconds, found {window}")
        task = self.preset.tasks[name]
        duration = self._duration(path)
        shown = _part(duration, start, end)
        parts = [shown]
        if not task.segment:
            own = windows_over(shown[1] - shown[0], window or self.window_seconds, overlap)
            parts = [(shown[0] + first, min(shown[0] + last, shown[1])) for first, last in own]
        whole = parts == [(0.0, duration)] or task.segment
        jobs = [
            replace(
                self._row(path, text, task, shown, duration, f"{place}"),
                clip=None if whole else part,
            )
            for place, text in enumerate(queries)
            for part in parts
        ]
        store = FrameStore(path.parent, self.settings, in_process=self.decode_in_process)
        found: list[tuple[str, float]] = []
        for first in range(0, len(jobs), BATCH):
            found += self._complete([(task, row) for row in jobs[first : first + BATCH]], store, len(parts) > 1)
        return [
            self._merged(task, text, path, list(zip(jobs, found, strict=True))[place * len(parts) :][: len(parts)])
            for place, text in enumerate(queries)
        ]

    def _duration(self, path: Path) -> float:
        try:
            return list_frames(path, name=path.name).duration
        except VideoError as error:
            raise VideoError(str(path), error.reason, error.status) from error

    def _row(self, path: Path, query: str, task: Task, shown: Window, duration: float, name: str) -> Row:
        """The question as a row without ground truth."""
        words = check_query(query, task)
        meta = {}
        if "{masked_query}" in task.prompt:
            masked = words if MASK in words else load_pipeline(self.verb_pipeline).mask([words])[0][0]
            if MASK not in masked:
                raise DataError(f"query {words!r}: no verb is found in it to be completed; write [] in its place")
            meta["masked_query"] = masked
        windows = (shown,) if task.segment else ()
        return Row(id=name, video=path.name, duration=duration, query=words, windows=windows, meta=meta)

    def _complete(self, jobs: Sequence[tuple[Task, Row]], store: FrameStore, rated: bool) -> list[tuple[str, float]]:
        """The text of each completion and the model's confidence in it, 1 unless ``rated``."""
        prompts = []
        for task, row in jobs:
            chat = messages(task, row)
            prompt = self.encode(chat, store.clip(video_of(chat)))
            if self.longest is not None and len(prompt.input_ids) > self.longest:
                raise DataError(
                    f"{row.video}: its prompt has {len(prompt.input_ids)} tokens, the model takes {self.longest}; show "
                    "less: a lower fps or total_pixels, or a shorter window"
                )
            prompts.append(prompt)
        config = decoding_config(self.model, self.processor, self.max_new_tokens)
        ids = generate_completions(
            self.model, prompts, range(len(prompts)), config, config.pad_token_id, config.eos_token_id
        )
        texts = self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
        sure = [self._confidence(prompt, own) for prompt, own in zip(prompts, ids, strict=True)] if rated else None
        return list(zip(texts, sure or [1.0] * len(texts), strict=True))

    @torch.no_grad()
    def _confidence(self, prompt: EncodedPrompt, ids: Sequence[int]) -> float:
        """Geometric mean of the probabilities of a completion's tokens."""
        whole = replace(
            prompt,
            input_ids=[*prompt.input_ids, *ids],
            mm_token_type_ids=[*prompt.mm_token_type_ids, *[0] * len(ids)],
        )
        inputs = batch_inputs([whole], self.processor.tokenizer.pad_token_id)
        inputs = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
        logits = self.model(**inputs, logits_to_keep=len(ids) + 1).logits[0, :-1].float()
        chosen = torch.tensor(ids, device=logits.device)[:, None]
        return float(torch.log_softmax(logits, dim=-1).gather(1, chosen).mean().exp())

    def _merged(self, task: Task, query: str, path: Path, parts: Sequence[tuple[Row, tuple[str, float]]]) -> Answer:
        """One answer out of those to all windows of a video."""
        read = [(row, text, sure, *read_windows(task, text, row)) for row, (text, sure) in parts]
        usable = [item for item in read if item[3] == OK]
        best = max(usable or read, key=lambda item: item[2])
        candidates: list[Candidate] = []
        windows: list[Window] = best[4]
        if len(parts) > 1 and usable:
            spans = [(start, end, sure) for *_, sure, _, found in usable for start, end in found]
            candidates = merge(spans)
            kept = sorted(candidates) if task.windows == "all" else candidates[:1]
            windows = [(start, end) for start, end, _ in kept]
        answer = answer_of(task, query, best[1], best[0], self.name, str(path))
        return replace(answer, windows=windows, candidates=candidates)


def _part(duration: float, start: float | None, end: float | None) -> Window:
    """The part that is shown; raises `DataError` where it is none of the video."""
    first, last = start or 0.0, duration if end is None else end
    if not 0 <= first < last or first >= duration:
        raise DataError(f"the part from {first:g} to {last:g} s is none of a video of {duration:.2f} s")
    return first, min(last, duration)
