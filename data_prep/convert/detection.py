"""ActivityNet-style detection JSON: ``{"database": {video: {subset, duration, annotations: [...]}}}``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_prep.convert.grounding import window_problem
from data_prep.convert.ledger import Entry, Ledger
from data_prep.errors import DataError
from data_prep.files import atomic_write
from data_prep.rows import check_video_name, is_seconds

CLIP = "clip"
KEEP = "keep"
SEGMENT_RULES = (CLIP, KEEP)
"""What happens to a segment that leaves its video or is empty: repaired or refused, or kept as published."""

SHORT_SEGMENT_SECONDS = 0.5
"""A shorter segment is noted."""


class DetectionBuilder:
    """Collects videos and labelled segments of one data set.

    With the rule ``clip`` a segment that sticks out of its video is clipped and one that is outside, reversed
    or empty is rejected; with ``keep`` all are kept as annotated and noted: published mAP counts them. A video with a
    clipped or rejected segment has all its segments as annotated, too, under ``published``: what evaluation counts.
    """

    def __init__(self, ledger: Ledger, segment_rule: str = CLIP) -> None:
        if segment_rule not in SEGMENT_RULES:
            raise ValueError(f"segment_rule must be one of {SEGMENT_RULES}, not {segment_rule!r}")
        self.ledger = ledger
        self.segment_rule = segment_rule
        self.database: dict[str, dict[str, Any]] = {}
        self._seen: set[tuple[str, str, float, float]] = set()
        self._published: dict[str, list[dict[str, Any]]] = {}

    def add_video(self, where: str, video: str, subset: str, duration: Any, **fields: Any) -> None:
        """Add a video without annotations; ``duration`` in seconds.

        Raises `DataError` for a video that is there already, a bad name, or a duration that is not positive.
        """
        check_video_name(video, where)
        if video in self.database:
            raise DataError(f"{where}: video {video!r} occurs twice")
        if not is_seconds(duration) or duration <= 0:
            raise DataError(f"{where}: duration {duration!r} of {video!r} is not a positive time; pass --durations")
        self.database[video] = {"subset": subset, "duration": float(duration), **fields, "annotations": []}

    def add_segment(self, entry: Entry, video: str, segment: Any, label: Any, **fields: Any) -> None:
        """Add a labelled segment ``[start, end]`` in seconds to a video, repaired if needed, or reject it."""
        if not isinstance(label, str) or not label.strip():
            self.ledger.reject(entry, "the label is not text", repr(label))
            return
        if isinstance(segment, list | tuple) and any(isinstance(time, str) for time in segment):
            segment = [_from_text(time) for time in segment]
            self.ledger.repair(entry, "time written as text turned into a number")
        duration = self.database[video]["duration"]
        problem = window_problem(segment, duration)
        numbers = isinstance(segment, list | tuple) and len(segment) == 2 and all(map(is_seconds, segment))
        if numbers:
            as_annotated = {"segment": [float(segment[0]), float(segment[1])], "label": label, **fields}
            self._published.setdefault(video, []).append(as_annotated)
            if self.segment_rule == CLIP and (problem or segment[0] < 0 or segment[1] > duration):
                self.database[video]["published"] = self._published[video]  # grows with the video's other segments
        if problem and not (numbers and self.segment_rule == KEEP):
            self.ledger.reject(entry, problem, f"{segment} in {video}, {duration} s long")
            return
        start, end = float(segment[0]), float(segment[1])
        if self.segment_rule == CLIP:
            if start < 0:
                self.ledger.repair(entry, "start before the video clipped to 0")
            if end > duration:
                self.ledger.repair(entry, "end after the video clipped to its duration")
            start, end = max(0.0, start), min(end, duration)
        elif problem:
            self.ledger.note(entry, f"kept as published: {problem}")
        elif start < 0 or end > duration:
            self.ledger.note(entry, "kept as published: segment sticks out of the video")
        if (video, label, start, end) in self._seen:
            self.ledger.note(entry, "same video, label and segment as an earlier entry")
        if 0 < end - start < SHORT_SEGMENT_SECONDS:
            self.ledger.note(entry, f"segment shorter than {SHORT_SEGMENT_SECONDS:g} s")
        self._seen.add((video, label, start, end))
        self.ledger.accept(entry)
        self.database[video]["annotations"].append({"segment": [start, end], "label": label, **fields})


def select_subset(found: str, wanted: str | None) -> bool:
    """Whether subset ``found`` is the one of ``--split wanted`` (None: all); the case does not matter."""
    return wanted is None or found.casefold() == wanted.casefold()


def require_videos(database: dict[str, Any], path: Path, wanted: str | None, subsets: set[str]) -> None:
    """Raise `DataError` naming the subsets of the file if ``--split`` left no video."""
    if not database:
        names = ", ".join(sorted(subsets)) or "none"
        raise DataError(f"{path}: no video of subset {wanted!r}; the file has: {names}")


def write_detection(name: str, database: dict[str, Any], path: Path) -> None:
    """Write the detection JSON atomically, one video per line."""
    with atomic_write(path) as out:
        out.write('{"version": ' + json.dumps(name) + ', "database": {\n')
        videos = [json.dumps(video) + ": " + json.dumps(record) for video, record in database.items()]
        out.write(",\n".join(videos) + "\n}}\n")


def _from_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
