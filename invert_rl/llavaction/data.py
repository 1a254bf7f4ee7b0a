"""From places of a run to batches: rows as views, their clips, and rows that take the place of unusable ones."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_json
from data_prep.rows import Row, read_rows
from invert_rl.llavaction.config import LLaVActionConfig
from invert_rl.llavaction.encode import ClipEncoder, Encoded
from invert_rl.llavaction.left_out import LeftOut
from invert_rl.llavaction.mixture import Mixture
from invert_rl.llavaction.model import UNLABELLED
from invert_rl.llavaction.prompts import time_instruction
from invert_rl.llavaction.questions.mqa import check_question, class_labels
from invert_rl.llavaction.reformulated import read_reformulated
from invert_rl.llavaction.replay import read_llava_video
from invert_rl.llavaction.views import Sample, ViewSettings, sample_of
from invert_rl.task_data import check_video_root
from invert_rl.video.clip import Clip
from invert_rl.video.ref import VideoRef
from invert_rl.video.store import FrameStore

MAX_REPLACEMENTS = 100
"""Give up when this many rows in a row cannot be used."""


class Classes:
    """Numbers of verb, noun and action classes, and the place of each action, as `build-mqa` writes them."""

    def __init__(self, verbs: int, nouns: int, actions: list[str]) -> None:
        self.verbs, self.nouns = verbs, nouns
        self.actions = actions
        self.index: Mapping[str, int] = {key: place for place, key in enumerate(actions)}

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Sizes of the three heads."""
        return self.verbs, self.nouns, len(self.actions)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Classes:
        """From a ``.classes.json``; raises `DataError` where a field is missing."""
        content = read_json(path)
        try:
            return cls(int(content["verbs"]), int(content["nouns"]), [str(key) for key in content["actions"]])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not a file of classes as build-mqa writes it ({error})") from error

    def write(self, path: Path) -> None:
        """As `read` takes it."""
        with atomic_write(path) as out:
            json.dump({"verbs": self.verbs, "nouns": self.nouns, "actions": self.actions}, out, indent=1)
            out.write("\n")


def read_questions(path: str | os.PathLike[str]) -> list[Row]:
    """Rows of ``build-mqa``; raises `DataError` naming the file for a row that is no question."""
    rows = read_rows(path)
    for row in rows:
        try:
            check_question(row)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    return rows


class SegmentStore(FrameStore):
    """A `FrameStore` that decodes a part of a video by itself: kitchens are filmed for an hour, an action takes 3 s.

    Where ``min_frames`` is ``max_frames``, a clip has that many: one that was filmed with fewer has some of them
    more than once, as in the released code [R].
    """

    def clip(self, ref: VideoRef) -> Clip:
        clip = self._get(ref, None)
        settings = self.settings
        return repeat_frames(clip, settings.max_frames) if settings.min_frames == settings.max_frames else clip


def repeat_frames(clip: Clip, count: int) -> Clip:
    """The clip with at least ``count`` frames, evenly repeated: frame i is the original's ``i * frames // count``."""
    frames = len(clip.frames)
    if frames >= count:
        return clip
    places = np.arange(count) * frames // count
    return replace(clip, frames=clip.frames[torch.from_numpy(places)], timestamps=clip.timestamps[places])


@dataclass
class RunData:
    """What a run trains on and is tested on."""

    pools: dict[str, list[Row]]
    """Rows by view."""
    tests: dict[str, list[Row]]
    """Questions to answer before and after, by name; the first is the one that counts."""
    classes: Classes
    video_root: str


def read_data(args: LLaVActionConfig) -> RunData:
    """The data that a run's settings name; raises `DataError` for a file that does not fit."""
    if not args.train_data or args.video_root is None:
        raise DataError("--train_data and --video_root are needed")
    rows = [row for path in args.train_data for row in read_questions(path)]
    check_video_root(rows, args.video_root)
    pools = {"mqa": rows, "temporal": rows, "direct": rows}
    if args.reformulated is not None:
        made = read_reformulated(args.reformulated, rows, args.keep_disagreeing)
        pools |= {"caption": made.captions, "qa": made.questions}
    replayed = [row for path in args.replay or () for row in read_llava_video(path)]
    if replayed:
        pools["qa"] = [*pools.get("qa", ()), *replayed]
    beside = Path(args.train_data[0]).with_suffix(".classes.json")
    classes = Classes.read(args.classes or beside)
    tests = {"test": read_questions(args.eval_data)} if args.eval_data else {}
    return RunData(pools, tests, classes, args.video_root)


class SampleEncoder:
    """Turns samples into encoded prompts with their clips."""

    def __init__(self, encoder: ClipEncoder, store: FrameStore, settings: ViewSettings, classes: Classes) -> None:
        self.encoder, self.store, self.settings, self.classes = encoder, store, settings, classes

    def __call__(self, sample: Sample, row: Row, with_answer: bool = True) -> Encoded:
        """Decode and encode one sample; raises `VideoError`, or `DataError` where it is too long."""
        clip = self.store.clip(sample.ref)
        text = sample.prompt
        if self.settings.time_instruction:
            style = self.settings.prompt_style
            text = time_instruction(clip.end - clip.start, len(clip.frames), style) + text
        labels = class_labels(row, self.classes.index) if sample.has_class else (UNLABELLED,) * 3
        return self.encoder(text, clip, sample.answer if with_answer else None, labels)


class Batches:
    """The batch of a part of an optimizer step, from the seed and the two numbers alone.

    ``parts`` are ranks times accumulated parts, so that the same samples make a step on any number of ranks.
    """

    def __init__(
        self, mixture: Mixture, encode: SampleEncoder, size: int, parts: int, left_out: LeftOut | None = None
    ) -> None:
        self.mixture, self.encode, self.size, self.parts = mixture, encode, size, parts
        self.left_out = LeftOut() if left_out is None else left_out

    def __call__(self, step: int, part: int) -> dict[str, Tensor]:
        first = (step * self.parts + part) * self.size
        items: list[Encoded] = []
        for place in range(first, first + self.size):
            items.append(self._item(place, items[0] if items else None))
        return self.encode.encoder.batch(items)

    def _item(self, place: int, beside: Encoded | None = None) -> Encoded:
        """The sample of a place, or of another row of its view where it cannot be used or not stand ``beside``."""
        view, row = self.mixture.at(place)
        for attempt in range(MAX_REPLACEMENTS):
            sample = sample_of(view, row, self.mixture.generator(place), self.encode.settings)
            if self.left_out.reason(sample.ref) is None:
                try:
                    item = self.encode(sample, row)
                    self.left_out.good(sample.ref)
                    if beside is not None:
                        self.encode.encoder.check_together(beside, item)
                    return item
                except DataError as error:
                    self.left_out.fail(sample.ref, error)
            row = self.mixture.instead(view, place, attempt)
        raise DataError(f"no usable row after {MAX_REPLACEMENTS} replacements: {self.left_out.summary()}")
