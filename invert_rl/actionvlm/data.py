"""What ActionVLM trains and tests on: extracted features, videos, or generated features; and the batches of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data_prep.errors import DataError, VideoError
from data_prep.files import read_jsonl
from invert_rl.actionvlm.alternation import Alternation
from invert_rl.actionvlm.config import ActionVLMArguments
from invert_rl.actionvlm.frames import FrameReader, stored_frames, time_videos
from invert_rl.actionvlm.prompt import answer_text
from invert_rl.tal.annotations import class_names, read_database
from invert_rl.tal.data import Video, pad, videos_of, window_of
from invert_rl.tal.misfits import SHOWN
from invert_rl.tal.windows import random_window
from invert_rl.video.quarantine import Quarantine

LEFT_OUT = "left_out.jsonl"
"""Videos of a run that could not be decoded."""


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
    """What was found of extracted features (see `FeatureReport.summary`)."""

    left_out: Quarantine = field(default_factory=Quarantine)
    """End to end: videos that this process could not decode, with the reasons."""
    log: Path | None = None
    """Where every process notes them, the workers of the loader, too."""

    def batch(
        self, windows: Sequence[Video], rows: int, multiple: int = 1, frames: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The model's input of windows padded to ``rows`` rows, and its mask ``(B, L)`` (see `pad`).

        End to end ``frames`` are what `read` gave for the windows (None: they are read here), black where one has
        ended. Raises `VideoError` where a video cannot be decoded.
        """
        batch = pad(windows, rows, multiple)
        if self.reader is None:
            return batch.features, batch.mask
        frames = frames if frames is not None else [self.read(window) for window in windows]
        filled = frames[0].new_zeros(len(windows), batch.mask.shape[1], *frames[0].shape[1:])
        for place, own in enumerate(frames):
            filled[place, : len(own)] = own
        return filled, batch.mask

    def read(self, window: Video, seed: int | None = None) -> Tensor:
        """Frames of a window; a video that cannot be decoded is noted, and raises `VideoError` each time."""
        assert self.reader is not None
        name = self.reader.name(window.video)
        if name in self.left_out:
            raise VideoError(name, self.left_out.videos[name])
        try:
            return self.reader.read(window.video, window.features[:][:, 0], seed)
        except VideoError as error:
            self.left_out.add(error)
            if self.log is not None:
                with self.log.open("a", encoding="utf-8") as out:
                    out.write(json.dumps({"video": error.path, "reason": error.reason}) + "\n")
            raise

    def undecodable(self) -> dict[str, str]:
        """Reasons by video that any process could not decode."""
        noted = read_jsonl(self.log) if self.log is not None and self.log.is_file() else ()
        return {entry["video"]: entry["reason"] for _, entry in noted} | self.left_out.videos


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
    augment: bool = False
    """End to end: random crops, mirrors and colours."""

    def __call__(self, step: int, part: int) -> dict[str, Any]:
        """Arguments of `ActionVLM.forward`; a random window of each video, which follows from seed and epoch."""
        epoch = self.schedule.epoch(step)
        windows, frames = [], []
        for place in self.schedule.places(step, part):
            window, own = self.window_at(place, epoch)
            windows.append(window)
            frames.append(own)
        features, mask = self.data.batch(windows, self.window, frames=[own for own in frames if own is not None])
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

    def window_at(self, place: int, epoch: int) -> tuple[Video, Tensor | None]:
        """A random window of a training video, which follows from seed and epoch, and end to end its frames.

        In the place of a video that cannot be decoded comes the next one that can, with what it shows and means.
        Raises `DataError` where none can.
        """
        videos = self.data.train
        for offset in range(len(videos)):
            index = (place + offset) % len(videos)
            generator = np.random.default_rng([self.schedule.seed, epoch, index])
            video = videos[index]
            start, length = random_window(video.segments, len(video.features), self.window, generator)
            window = window_of(video, start, length)
            if self.data.reader is None:
                return window, None
            seed = int(generator.integers(2**31)) if self.augment else None
            with suppress(VideoError):  # noted by `ActionData.read`, and counted in the summary
                return window, self.data.read(window, seed)
        raise DataError(f"none of {len(videos)} training videos can be decoded; {self.data.left_out.summary()}")


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
        root, store = Path(args.video_root), None
        if args.frame_store is not None:
            store = stored_frames(root, Path(args.frame_store), args.frame_rate, args.frame_size)
        reader = FrameReader(root, args.video_ending, args.frame_size, store=store)
        missing = reader.missing([*train, *test])
        if missing and args.bad_features == "error":
            shown = ", ".join(missing[:SHOWN]) + (f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else "")
            raise DataError(
                f"{args.video_root}: {len(missing)} videos are missing: {shown}; correct --video_ending? "
                "--bad_features skip goes on without them, whose ground truth still counts"
            )
        train, test = ([video for video in part if video.video not in missing] for part in (train, test))
        if not train or not test:
            raise DataError(f"{args.video_root}: no video of {'training' if not train else 'testing'} is there")
        told = {"videos": {"policy": args.bad_features, "missing": sorted(missing)}}
        return ActionData(
            classes,
            train,
            test,
            test_base,
            args.test_subset,
            feature_width,
            reader=reader,
            features=told,
            log=Path(args.output_dir) / LEFT_OUT,
        )
    features = args.open_features()
    bases = [args.with_frame_rates(base) for _, base, _ in subsets]
    reports = [
        args.inspect(features, base, (name,), str(file), args.resize is not None)
        for base, (file, _, name) in zip(bases, subsets, strict=True)
    ]
    report = reports[0] + reports[1]
    left_out = report.check(args.bad_features, str(features.path))
    train, test = (
        videos_of(base, str(file), features, name, classes, args.resize, left_out=left_out)
        for base, (file, _, name) in zip(bases, subsets, strict=True)
    )
    told = report.summary(args.bad_features, bases[1], args.test_subset)
    return ActionData(classes, train, test, test_base, args.test_subset, features.layout.width, features=told)
