"""One split of a run: its classes, videos and texts, and how its model is evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor

from data_prep.errors import DataError
from invert_rl.evaluation.detection.scoring import score_results
from invert_rl.psftr.data import filter_ground_truth, of_classes, training_slices
from invert_rl.psftr.inference import detect_all
from invert_rl.psftr.model import PSFTR
from invert_rl.psftr.planted import write_attribute_world
from invert_rl.psftr.settings import PSFTRArguments
from invert_rl.psftr.splits import ClassSplit, make_splits, read_split, write_splits
from invert_rl.psftr.text import read_text_embeddings
from invert_rl.tal.annotations import class_names, read_database
from invert_rl.tal.data import Video, videos_of

SPLITS = 10
"""Seeded splits (section 4.1)."""

Metrics = dict[str, float]
Results = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class DetectionSet:
    """Test videos of some classes and their ground truth."""

    database: dict[str, Any]
    """Annotations of these classes alone, of all subsets."""
    videos: list[Video]
    classes: tuple[str, ...]
    text: Tensor
    """``(K, d)``, in the order of the classes."""


@dataclass(frozen=True)
class SplitData:
    """What one split trains and tests on."""

    split: ClassSplit
    slices: list[Video]
    """Training slices, labels are places in ``split.train``."""
    text: Tensor
    """``(K, d)`` of the seen classes."""
    unseen: DetectionSet
    seen: DetectionSet | None
    dropped: int
    """Segments that ``gt_filter`` left out of the annotations."""
    features: dict[str, Any]
    """What was found of the features (see `FeatureReport.summary`)."""

    def __str__(self) -> str:
        """One line for people."""
        left_out = f", {self.dropped} segments left out by gt_filter" if self.dropped else ""
        if self.features["left_out"]:
            left_out += (
                f", {self.features['left_out']} videos left out for their features, whose "
                f"{self.features['ground_truth_without_features']} test segments count as missed"
            )
        return (
            f"{len(self.split.train)} seen classes in {len(self.slices)} slices, {len(self.split.test)} unseen classes "
            f"in {len(self.unseen.videos)} test videos{left_out}"
        )


def use_planted_world(args: PSFTRArguments) -> None:
    """Generate the embedded default's files in the run folder and point the settings to them."""
    folder = Path(args.output_dir) / "data"
    with PartialState().main_process_first():
        if not (folder / "splits").is_dir():  # written last
            write_attribute_world(folder, args.planted_seed, args.seen_share)
    args.annotations, args.features = str(folder / "annotations.json"), str(folder / "features")
    args.text, args.split_lists = str(folder / "text.safetensors"), str(folder / "splits")


def class_split(args: PSFTRArguments, number: int) -> ClassSplit:
    """Split ``number`` of ``split_lists``, or a seeded one, which is written to the run folder.

    Raises `DataError` where it is not disjoint or names a class that the annotations do not have.
    """
    assert args.annotations is not None
    known = class_names(read_database(Path(args.annotations)))
    folder = Path(args.output_dir) / "splits"
    if args.split_lists is None:
        made = make_splits(known, args.seen_share, max(SPLITS, number + 1), args.split_seed)
        if PartialState().is_main_process:
            write_splits(folder, made)
        return made[number]
    split = read_split(Path(args.split_lists), number)
    split.check(known, args.annotations)
    return split


def load_split(args: PSFTRArguments, split: ClassSplit, width: int) -> SplitData:
    """Read the annotations, features and class texts of a split; raises `DataError` for what does not fit."""
    assert args.annotations is not None and args.features is not None and args.text is not None
    text = read_text_embeddings(Path(args.text), split.train, args.prompt)
    if text.shape[1] != width:
        raise DataError(f"{args.text}: embeddings of {text.shape[1]} channels, but width is {width}")
    features = args.open_features(width)
    database = args.with_frame_rates(read_database(Path(args.annotations)))
    resized = args.rescale is not None
    subsets = (args.train_subset, args.test_subset)
    report, left_out = args.select(features, database, subsets, args.annotations, resized)
    everything, dropped = filter_ground_truth(database, args.gt_filter, features.layout)

    def videos(database: dict[str, Any], subset: str, classes: Sequence[str]) -> list[Video]:
        where = f"{args.annotations}, {len(classes)} classes"
        return videos_of(database, where, features, subset, classes, args.rescale, "nearest", left_out)

    def test_set(classes: tuple[str, ...]) -> DetectionSet:
        database = of_classes(everything, classes)
        text = read_text_embeddings(Path(str(args.text)), classes, args.prompt)
        return DetectionSet(database, videos(database, args.test_subset, classes), classes, text)

    seen = of_classes(everything, split.train)
    slices = training_slices(videos(seen, args.train_subset, split.train), args.slice_size, args.slice_overlap)
    return SplitData(
        split,
        slices,
        text,
        test_set(split.test),
        test_set(split.train) if args.evaluate_seen else None,
        dropped,
        report.summary(args.bad_features, of_classes(everything, split.test), args.test_subset),
    )


def steps_of(args: PSFTRArguments, slices: int) -> int:
    """Optimizer steps of a run over so many slices: ``max_steps``, or else ``num_train_epochs``."""
    if args.max_steps > 0:
        return args.max_steps
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return math.ceil(args.num_train_epochs * slices / batch)


def evaluate(model: PSFTR, data: SplitData, args: PSFTRArguments, shuffled: bool = False) -> tuple[Metrics, Results]:
    """Metrics as fractions and the detections of the unseen classes.

    ``average_mAP`` and ``mAP@t`` are of the unseen classes, ``seen_average_mAP`` is of the seen ones. ``shuffled``
    gives every class the text of another: what is left when the texts mean nothing.
    """
    metrics: Metrics = {}
    results: Results = {}
    for prefix, test in (("", data.unseen), ("seen_", data.seen)):
        if test is None:
            continue
        text = test.text.roll(1, dims=0) if shuffled else test.text
        found = detect_all(
            model,
            test.videos,
            test.classes,
            text,
            args.slice_size,
            overlap=args.inference_slice_overlap,
            fusion=args.fusion,
            batch=args.evaluation_batch,
        )
        scored = score_results(test.database, found, args.test_subset, args.protocol, args.thresholds).metrics
        if prefix:
            metrics[f"{prefix}average_mAP"] = scored["average_mAP"]
        else:
            metrics, results = scored, found
    return metrics, results
