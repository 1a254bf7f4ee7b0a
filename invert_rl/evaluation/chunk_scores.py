"""DiDeMo's own scores: ranked moments of 5 s chunks against several annotators.

LocalizingMoments utils/eval.py: the IoU of the first moment with each annotator's and the rank of each annotator's
moment are averaged over the three annotators that fit best; R@k counts queries whose mean rank is at most k.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_prep.errors import DataError
from data_prep.rows import Row, Window
from rewards.spans import interval_iou

CHUNK = 5.0
"""Seconds."""
FITTING = 3
"""How many annotators count: those that the prediction fits best."""

Chunks = tuple[int, int]
"""First and last chunk of a moment, both included."""


def didemo_metrics(predicted: Sequence[Sequence[Window]], rows: Sequence[Row]) -> dict[str, float]:
    """``R@1``, ``R@5`` and ``mIoU`` in percent and ``n``, of each row's windows in seconds, best first.

    DiDeMo has all 21 moments ranked (15 of a video of five chunks); one that is not among the answers has the last
    rank here, so that whoever answers once is never better off than with a whole ranking. Raises `DataError` for rows
    without the annotators' chunks, which ``invert-rl convert didemo`` keeps.
    """
    ious, ranks = [], []
    for windows, row in zip(predicted, rows, strict=True):
        truth, count = _annotated(row)
        ranked = ranked_moments(windows, count, row.duration)
        last = count * (count + 1) // 2
        by_fit = sorted((_chunk_iou(ranked[0], true) if ranked else 0.0 for true in truth), reverse=True)
        by_rank = sorted(ranked.index(true) + 1 if true in ranked else last for true in truth)
        ious.append(np.mean(by_fit[:FITTING]))
        ranks.append(np.mean(by_rank[:FITTING]))
    return {
        "R@1": 100 * float(np.mean(np.array(ranks) <= 1)),
        "R@5": 100 * float(np.mean(np.array(ranks) <= 5)),
        "mIoU": 100 * float(np.mean(ious)),
        "n": len(rows),
    }


def ranked_moments(windows: Sequence[Window], count: int, duration: float) -> list[Chunks]:
    """The moment of ``count`` chunks that each window overlaps best (IoU in seconds), in their order, each once.

    The last chunk of a shorter video ends with it. A window that meets no chunk is none.
    """
    moments = [(first, last) for first in range(count) for last in range(first, count)]
    found: dict[Chunks, None] = {}
    for window in windows:
        fits = [interval_iou(window, (CHUNK * first, min(CHUNK * (last + 1), duration))) for first, last in moments]
        best = int(np.argmax(fits))
        if fits[best] > 0:
            found.setdefault(moments[best])
    return list(found)


def _chunk_iou(predicted: Chunks, true: Chunks) -> float:
    shared = max(0, min(predicted[1], true[1]) + 1 - max(predicted[0], true[0]))
    return shared / (max(predicted[1], true[1]) + 1 - min(predicted[0], true[0]))


def _annotated(row: Row) -> tuple[list[Chunks], int]:
    """Each annotator's moment, and how many chunks the video has."""
    times, count = row.meta.get("times"), row.meta.get("num_segments")
    if not times or not isinstance(count, int):
        raise DataError(
            f"row {row.id!r} ({row.place}): no times and num_segments in meta, the annotators' chunks; convert the "
            "data with `invert-rl convert didemo`"
        )
    return [(int(first), int(last)) for first, last in times], count
