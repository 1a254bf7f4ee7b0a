"""What ActionVLM trains and tests on: extracted features, videos, or generated features; and the batches of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data_prep.errors import DataError
from invert_rl.actionvlm.alternation import Alternation
from invert_rl.actionvlm.config import ActionVLMArguments
from invert_rl.actionvlm.frames import FrameReader, time_videos
from invert_rl.actionvlm.prompt import answer_text
from invert_rl.tal.annotations import class_names, read_database
from invert_rl.tal.data import Video, pad, videos_of, window_of
from invert_rl.tal.windows import random_window


@dataclass(frozen=True)
class ActionData:
    """Videos of both subsets on one list of classes."""

    classes: list[str]
    train: list[Video]
    test: list[Video]
    truth: dict[str, Any]
    """Database that the test subset is scored against."""
    test_subset: str
    feature_width: int
    evidence_width: int = 0
    """Last channels of the features that are for the language model alone (generated data)."""
    reader: FrameReader | None = None
    """End to end: gives the frames of windows, whose features are times."""
    features: dict[str, Any] | None = None
    """By subset, what was found of extracted features (see `FeatureReport.summary`)."""

    def batch(self, windows: Sequence[Video], rows: int, multiple: int = 1) -> tuple[Tensor, Tensor]:
        """The model's input of windows padded to ``rows`` rows, and its mask ``(B, L)`` (see `pad`)."""
        batch = pad(windows, rows, multiple)
        if self.reader is None:
            return batch.features, batch.mask
        return self.reader.fill(windows, batch.mask.shape[1]), batch.mask


@dataclass(frozen=True)
class Batches:
    """Training batches of a run; call it with an optimizer step and a part of it."""

    data: ActionData
    schedule: Alternation
    window: int
    tokenizer: PreTrainedTokenizerBase | None
    """Of the language model; None: no answers are taught."""
    answer_descriptions: Mapping[str, str] | None = None
    """Texts that answers are made of, for ``answer_style: descriptions``."""

    def __call__(self, step: int, part: int) -> dict[str, Any]:
        """Arguments of `ActionVLM.forward`; a random window of each video, which follows from seed and epoch."""
        epoch = self.schedule.epoch(step)
        windows = []
        for place in self.schedule.places(step, part):
            video = self.data.train[place]
            generator = np.random.default_rng([self.schedule.seed, epoch, place])
            start, length = random_window(video.segments, len(video.features), self.window, generator)
            windows.append(window_of(video, start, length))
        features, mask = self.data.batch(windows, self.window)
        vision_only = self.schedule.vision_only(epoch)
        answers = None
        if self.tokenizer is not None and not vision_only:
            texts = [
                answer_text(w.segments, w.labels, self.data.classes, len(w.features), self.answer_descriptions)
                for w in windows
            ]
            answers = [list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        return {
            "features": features,
            "mask": mask,
            "segments": [window.segments for window in windows],
            "labels": [window.labels for window in windows],
            "epoch": epoch,
            "vision_only": vision_only,
            "answers": answers,
        }


def read_data(args: ActionVLMArguments, feature_width: int) -> ActionData:
    """The data that the arguments name: features, or videos where ``video_root`` is given.

    ``feature_width`` is the vision encoder's for videos. Raises `DataError` for what is missing or does not fit.
    """
    if args.train_annotations is None or (args.features is None) == (args.video_root is None):
        raise DataError("--train_annotations needs either --features or --video_root with --vision_model")
    train_file = Path(args.train_annotations)
    test_file = Path(args.test_annotations or args.train_annotations)
    train_base, test_base = read_database(train_file), read_database(test_file)
    classes = sorted({*class_names(train_base), *class_names(test_base)})
    subsets = ((train_file, train_base, args.train_subset), (test_file, test_base, args.test_subset))
    if args.video_root is not None:
        train, test = (time_videos(base, name, classes, args.frame_rate, args.resize) for _, base, name in subsets)
        reader = FrameReader(Path(args.video_root), args.video_ending, args.frame_size)
        return ActionData(classes, train, test, test_base, args.test_subset, feature_width, reader=reader)
    features = args.open_features()
    parts, reports = [], {}
    for file, base, name in subsets:
        base = args.with_frame_rates(base)
        report, left_out = args.select(features, base, (name,), str(file), args.resize is not None)
        parts.append(videos_of(base, str(file), features, name, classes, args.resize, left_out=left_out))
        reports[name] = report.summary(args.bad_features, base, name)
    width = features.layout.width
    return ActionData(classes, parts[0], parts[1], test_base, args.test_subset, width, features=reports)
