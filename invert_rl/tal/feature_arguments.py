"""Settings of extracted features, the same in every recipe that reads them, and what they make of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from invert_rl.tal.annotations import with_frame_rates
from invert_rl.tal.features import LAYOUTS, Features, Layout, changed_layout
from invert_rl.tal.misfits import POLICIES, FeatureReport, inspect_features
from invert_rl.tal.training import SupervisedArguments


@dataclass
class FeatureArguments(SupervisedArguments):
    """Everything of `SupervisedArguments`, and the fields below."""

    features: str | None = field(default=None, metadata={"help": "Folder or HDF5 file of extracted features."})
    feature_layout: str = field(
        default="thumos-i3d",
        metadata={"help": "Published features whose numbers hold (docs/detection.md).", "choices": list(LAYOUTS)},
    )
    feature_width: int | None = field(default=None, metadata={"help": "Channels, where the layout's differ."})
    feature_stride: float | None = field(default=None, metadata={"help": "Frames between rows, likewise."})
    feature_clip: float | None = field(default=None, metadata={"help": "Frames that a row saw, likewise."})
    feature_fps: float | None = field(
        default=None,
        metadata={"help": "Frame rate at which all rows were taken; null: the layout's, else each video's."},
    )
    feature_prefix: str | None = field(
        default=None,
        metadata={"help": "Before a video's id in names; null: the layout's. Names without it serve, too."},
    )
    frame_rates: str | None = field(
        default=None, metadata={"help": "JSON with video_fps by video, as GAP's *_info.json; null: fps as annotated."}
    )
    bad_features: str = field(
        default="error",
        metadata={
            "help": "Missing and odd files: error lists all; skip leaves their videos out, whose ground truth still "
            "counts; take uses odd lengths.",
            "choices": list(POLICIES),
        },
    )
    skip_missing: bool | None = field(default=None, metadata={"help": "Older name: true is bad_features skip."})
    train_subset: str = field(default="validation", metadata={"help": "Subset to train on; capitals do not matter."})
    test_subset: str = field(default="test", metadata={"help": "Subset to test on, likewise."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.skip_missing is not None:
            if self.skip_missing and self.bad_features == "error":
                self.bad_features = "skip"
            self.skip_missing = None
        if self.bad_features not in POLICIES:
            raise DataError(f"bad_features must be one of {', '.join(POLICIES)}, not {self.bad_features!r}")

    def layout_of_features(self, width: int | None = None) -> Layout:
        """The layout with the fields' own numbers; ``width`` stands in where ``feature_width`` is not given."""
        return changed_layout(
            self.feature_layout,
            self.feature_width or width,
            self.feature_stride,
            self.feature_clip,
            self.feature_fps,
            self.feature_prefix,
        )

    def open_features(self, width: int | None = None) -> Features:
        """The features, with their layout; raises `DataError` where there are none."""
        return Features(str(self.features), self.layout_of_features(width))

    def with_frame_rates(self, database: Mapping[str, Any]) -> dict[str, Any]:
        """An annotation database with the frame rates of ``frame_rates``."""
        if self.frame_rates is None:
            return dict(database)
        return with_frame_rates(dict(database), Path(self.frame_rates), self.layout_of_features().prefix)

    def select(
        self,
        features: Features,
        database: Mapping[str, Any],
        subsets: tuple[str, ...],
        where: str,
        resized: bool = False,
    ) -> tuple[FeatureReport, set[str]]:
        """What `inspect_features` finds and which videos are left out; raises `DataError` as ``bad_features`` says."""
        report = self.inspect(features, database, subsets, where, resized)
        return report, report.check(self.bad_features, str(features.path))

    def inspect(
        self,
        features: Features,
        database: Mapping[str, Any],
        subsets: tuple[str, ...],
        where: str,
        resized: bool = False,
    ) -> FeatureReport:
        """What `inspect_features` finds; raises `DataError` for a subset that the annotations ``where`` do not have."""
        there = sorted({str(record.get("subset")) for record in database.values()})
        absent = [name for name in subsets if name.casefold() not in map(str.casefold, there)]
        if absent:
            raise DataError(f"{where}: no annotated video in subset {absent[0]!r}; subsets: {', '.join(there)}")
        return inspect_features(features, database, subsets, resized)
