"""Intervals of a video in which nothing is counted, such as THUMOS14's "Ambiguous" ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.errors import DataError
from data_prep.files import read_lines
from invert_rl.evaluation.detection.precision import Segments

Intervals = dict[str, list[tuple[float, float]]]
"""Start and end in seconds, by video."""


def read_ambiguous(path: Path) -> Intervals:
    """Intervals per video of lines ``video start end`` in seconds, such as THUMOS14's ``Ambiguous_test.txt``.

    Raises `DataError` for a file that is not there and for a line of another form.
    """
    intervals: Intervals = {}
    for number, line in read_lines(path):
        parts = line.split()
        try:
            video, start, end = parts[0], float(parts[1]), float(parts[2])
        except (IndexError, ValueError) as error:
            raise DataError(f"{path}:{number}: expected 'video start end', found {line!r}") from error
        intervals.setdefault(video, []).append((start, end))
    return intervals


def outside(predictions: Segments, intervals: Intervals) -> np.ndarray:
    """Which predictions share no time with an interval of their video, ``(N,)`` bool; touching borders share none."""
    kept = np.ones(len(predictions), dtype=bool)
    for video, spans in intervals.items():
        of_video = predictions.videos == video
        for start, end in spans:
            shared = np.minimum(predictions.times[:, 1], end) > np.maximum(predictions.times[:, 0], start)
            kept &= ~(of_video & shared)
    return kept
