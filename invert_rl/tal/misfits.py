"""What is wrong with a folder of features, all of it at once, and what is done about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from data_prep.errors import DataError
from data_prep.progress import progress
from invert_rl.evaluation.detection.files import scored_annotations
from invert_rl.tal.features import Features, Layout, is_rate
from invert_rl.tal.grid import LengthError

POLICIES = ("error", "skip", "take")
"""``error`` stops and lists all misfits. ``skip`` leaves videos with missing or odd features out of training, and of
testing without detections: their ground truth stays and counts as missed. ``take`` uses files of an odd length (resized
ones by the video's duration, others where the grid puts their rows) and skips the rest."""
SHOWN = 5
"""Videos named in a message."""


@dataclass(frozen=True)
class FeatureReport:
    """What was found for the videos of an annotation file."""

    ok: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    odd: dict[str, str] = field(default_factory=dict)
    """Why, by video: unreadable, another width, not finite, no frame rate, or a length that does not fit."""
    odd_length: set[str] = field(default_factory=set)
    """Those of ``odd`` that can be taken as they are."""
    stretched: dict[str, str] = field(default_factory=dict)
    """Features that are resized anyway and whose length does not fit: they are spread over the video's duration."""

    def __add__(self, other: FeatureReport) -> FeatureReport:
        """What was found for the videos of both."""
        return FeatureReport(
            self.ok + other.ok,
            self.missing + other.missing,
            self.odd | other.odd,
            self.odd_length | other.odd_length,
            self.stretched | other.stretched,
        )

    def left_out(self, policy: str) -> set[str]:
        """Videos that are not used under ``policy`` ``skip`` or ``take``."""
        taken = self.odd_length if policy == "take" else set()
        return {*self.missing, *self.odd} - taken

    def check(self, policy: str, where: str) -> set[str]:
        """`left_out`; raises `DataError` that lists the misfits where the policy is ``error``, or nothing is left."""
        if policy not in POLICIES:
            raise DataError(f"bad_features must be one of {', '.join(POLICIES)}, not {policy!r}")
        if policy == "error" and (self.missing or self.odd):
            lines = [f"{where}: features of {len(self.missing)} videos are missing and of {len(self.odd)} do not fit"]
            lines += [f"  missing: {_some(self.missing)}"] if self.missing else []
            lines += [f"  {video}: {why}" for video, why in list(self.odd.items())[:SHOWN]]
            lines += [f"  and {len(self.odd) - SHOWN} more that do not fit"] if len(self.odd) > SHOWN else []
            lines += ["invert-rl check-features lists all; --bad_features skip or take goes on without or with them"]
            raise DataError("\n".join(lines))
        left_out = self.left_out(policy)
        if left_out and not self.ok and not self.stretched and left_out == {*self.missing, *self.odd}:
            raise DataError(
                f"{where}: no video has features that can be used ({len(self.missing)} missing, {len(self.odd)} odd); "
                "correct folder, prefix and layout?"
            )
        return left_out

    def summary(self, policy: str, database: Mapping[str, Any], subset: str) -> dict[str, Any]:
        """For ``summary.json``: counts, the policy, and the ground truth of ``subset`` that nothing can detect."""
        left_out = self.left_out(policy)
        unseen = [
            len(scored_annotations(database[video]))
            for video in left_out
            if video in database and str(database[video].get("subset")).casefold() == subset.casefold()
        ]
        return {
            "policy": policy,
            "ok": len(self.ok),
            "missing": sorted(self.missing),
            "odd": self.odd,
            "stretched": sorted(self.stretched),
            "left_out": len(left_out),
            "ground_truth_without_features": sum(unseen),
        }


def inspect_features(
    features: Features,
    database: Mapping[str, Any],
    subsets: Iterable[str] | None = None,
    resized: bool = False,
    label: str = "features",
) -> FeatureReport:
    """Read the features of every video of ``subsets`` (None: all; upper and lower case alike) and tell what is wrong.

    ``resized``: they are resized to a fixed length, for which any length serves. Only one video is in memory at a time.
    """
    wanted = None if subsets is None else {name.casefold() for name in subsets}
    report = FeatureReport()
    chosen = [
        (video, record)
        for video, record in database.items()
        if wanted is None or str(record.get("subset")).casefold() in wanted
    ]
    absent = set(features.missing([video for video, _ in chosen]))
    for video, record in progress(chosen, label):
        if video in absent:
            report.missing.append(video)
            continue
        try:
            features.check(video, float(record["duration"]), record.get("fps"))
        except LengthError as error:
            if resized:
                report.stretched[video] = str(error)
            else:
                report.odd[video] = str(error)
                report.odd_length.add(video)
        except DataError as error:
            report.odd[video] = str(error)
        else:
            report.ok.append(video)
    return report


def infer_layout(features: Features, database: Mapping[str, Any]) -> Layout:
    """The layout that most files of a folder share: their width, and the stride and clip that their lengths tell.

    Rows are fitted as a line over the videos' frames, of those with a frame rate if most have one, and over their
    seconds, by the median of slopes and of what is left; the better fit counts. With fewer than
    three files only the width is known.
    """
    shapes: dict[str, tuple[int, int]] = {}
    absent = set(features.missing(list(database)))
    for video in database:
        if video in absent:
            continue
        with suppress(DataError):  # told by inspect_features
            shapes[video] = features.rows(video).shape
    widths = Counter(width for _, width in shapes.values())
    width = widths.most_common(1)[0][0] if widths else 0
    chosen = [video for video, shape in shapes.items() if shape[1] == width]
    layout = replace(features.layout, width=width)
    if len(chosen) < 3:
        return layout
    rows = np.array([shapes[video][0] for video in chosen], dtype=float)
    seconds = np.array([float(database[video]["duration"]) for video in chosen])
    annotated = [database[video].get("fps") for video in chosen]
    rates = np.array([float(rate) if is_rate(rate) else np.nan for rate in annotated])
    found = []
    for places, fps in ((seconds * rates, None), (seconds, 1.0)):
        there = np.isfinite(places)
        if there.sum() > len(places) / 2:
            known, places = rows[there], places[there]
            gap = places[:, None] - places
            steps = (known[:, None] - known)[gap > 0] / gap[gap > 0]
            slope = float(np.median(steps)) if len(steps) else float(np.median(known / places))
            if slope > 0:
                rest = known - slope * places
                error = float(np.mean(np.abs(rest - np.median(rest)) > 1))
                # rows = (frames - clip) / stride + 1
                stride = 1 / slope
                clip = max(stride / 2, (1 - float(np.median(rest))) * stride)
                found.append((error, replace(layout, stride=stride, clip=clip, fps=fps)))
    return min(found, key=lambda pair: pair[0])[1] if found else layout


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
