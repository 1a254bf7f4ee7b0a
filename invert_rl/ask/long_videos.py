"""Videos longer than a model sees at its own frame rate: overlapping windows, and one list of spans out of them."""

from __future__ import annotations

from collections.abc import Sequence

from data_prep.rows import Window
from rewards.spans import interval_iou

OVERLAP = 0.5
"""Share of a window that the next one sees again: a moment of up to half a window is whole in one of them."""
SAME = 0.5
"""tIoU from which spans of two windows are one moment."""

Candidate = tuple[float, float, float]
"""Start and end in seconds, and confidence in [0, 1]."""


def windows_over(duration: float, length: float, overlap: float = OVERLAP) -> list[Window]:
    """Windows of ``length`` seconds over a video of ``duration`` seconds, evenly laid, the last one ending with it.

    Each shares at least ``overlap`` of its length with the next; one window for a video that is not longer.
    """
    if duration <= length:
        return [(0.0, duration)]
    step = length * (1 - overlap)
    count = 1 + max(1, -int(-(duration - length) // step))
    stride = (duration - length) / (count - 1)
    return [(round(place * stride, 3), round(min(duration, place * stride + length), 3)) for place in range(count)]


def merge(candidates: Sequence[Candidate], same: float = SAME) -> list[Candidate]:
    """One candidate for each moment, best first.

    In order of confidence each span joins the first moment with which its tIoU reaches ``same``. A moment's borders are
    the means of its spans', weighted by confidence, its confidence is that of its best span.
    """
    moments: list[list[Candidate]] = []
    for candidate in sorted(candidates, key=lambda item: -item[2]):
        for moment in moments:
            if interval_iou(candidate[:2], moment[0][:2]) >= same:
                moment.append(candidate)
                break
        else:
            moments.append([candidate])
    merged = []
    for moment in moments:
        weight = sum(item[2] for item in moment) or 1.0
        start, end = (sum(item[place] * item[2] for item in moment) / weight for place in (0, 1))
        if sum(item[2] for item in moment) == 0:
            start, end = moment[0][:2]
        merged.append((round(start, 3), round(end, 3), moment[0][2]))
    return merged
