"""How well spans agree, as plain numbers: IoU and its variants for two spans, and for two sets of them.

A span is (start, end) in seconds. Nothing here parses text; `rewards.span_rewards` does.
"""

from __future__ import annotations

import bisect
import math
import operator
from collections.abc import Sequence
from typing import TypeAlias

from rewards.errors import RewardError

Interval: TypeAlias = Sequence[float]


def is_interval(span: Interval) -> bool:
    """Whether ``span`` has two finite ends, the first before the second, and a finite length."""
    start, end = span
    return start < end and math.isfinite(end - start)


def interval_iou(a: Interval, b: Interval) -> float:
    """Length of the intersection over length of the union, in [0, 1] (paper, eq. 8).

    ``a`` and ``b`` are (start, end). IoU is 0 when either is empty, reversed or not finite.
    """
    if not (is_interval(a) and is_interval(b)):
        return 0.0
    intersection = min(a[1], b[1]) - max(a[0], b[0])
    if intersection <= 0:
        return 0.0
    return min(1.0, intersection / ((a[1] - a[0]) + (b[1] - b[0]) - intersection))


def interval_giou(a: Interval, b: Interval) -> float:
    """Generalized IoU, in [-1, 1]: IoU minus the share of the convex hull that neither interval covers.

    Equal to IoU where the intervals overlap, negative where there is a gap between them. -1 when either interval is
    empty, reversed or not finite.
    """
    if not (is_interval(a) and is_interval(b)):
        return -1.0
    hull = max(a[1], b[1]) - min(a[0], b[0])
    gap = max(0.0, max(a[0], b[0]) - min(a[1], b[1]))
    return interval_iou(a, b) - gap / hull


def timestamp_iou(predicted: Interval, truth: Interval, duration: float) -> float:
    """Timestamp-aware IoU of Time-R1, in [0, 1]: ``IoU · (1 − |Δs|/D) · (1 − |Δe|/D)`` with D the video's length.

    A factor that an end outside the video would make negative counts as 0.
    """
    iou = interval_iou(predicted, truth)
    if iou == 0.0:
        return 0.0
    start_factor = max(0.0, 1.0 - abs(predicted[0] - truth[0]) / duration)
    end_factor = max(0.0, 1.0 - abs(predicted[1] - truth[1]) / duration)
    return iou * start_factor * end_factor


def matched_iou(predicted: Sequence[Interval], truth: Sequence[Interval]) -> float:
    """Mean IoU of the best one-to-one matching of two sets of intervals, in [0, 1].

    The sum of the matched IoUs over the size of the larger set, so that a missing and a superfluous interval
    both cost. 0 when either set is empty.
    """
    if not predicted or not truth:
        return 0.0
    table = [[interval_iou(a, b) for b in truth] for a in predicted]
    from scipy.optimize import linear_sum_assignment  # half a second that most do without

    rows, columns = linear_sum_assignment(table, maximize=True)
    total = sum(table[row][column] for row, column in zip(rows, columns, strict=True))
    return min(1.0, total / max(len(predicted), len(truth)))


def set_iou(pred: Sequence[Interval], truth: Sequence[Interval]) -> float:
    """Length of the intersection of two sets of spans over that of their union, in [0, 1] (TimeLens2's tIoU).

    Predicted spans are merged where they overlap, so that naming a second twice changes nothing. Annotated spans are
    not: seconds that were annotated twice count twice, and the result is cut at 1. 0 when either set is empty or any
    span is empty, reversed or not finite. O(n log n) in the number of spans.
    """
    if not _usable(pred, truth):
        return 0.0
    covered_by_pred = _Seconds(pred)
    intersection = sum(covered_by_pred.before(end) - covered_by_pred.before(start) for start, end in truth)
    union = covered_by_pred.length + sum(end - start for start, end in truth) - intersection
    return min(1.0, intersection / union) if union > 0 else 1.0


def wasserstein(pred: Sequence[Interval], truth: Sequence[Interval], beta: float = 1.0) -> float:
    """``exp(−beta · W1 / L)`` of two sets of spans, in [0, 1] (TimeLens2's "twass").

    W1 is the Wasserstein-1 distance in seconds between the uniform distributions on the two sets of seconds, which
    is the area between their distribution functions; L is the length of ``truth`` in seconds. A span that misses
    still earns the more the nearer it is. 0 when either set is empty or any span is empty, reversed or not finite.
    O(n log n) in the number of spans. Raises `RewardError` for a ``beta`` that is not positive.
    """
    if not 0 < beta < math.inf:
        raise RewardError(f"wasserstein: beta {beta!r} must be a positive number")
    if not _usable(pred, truth):
        return 0.0
    seconds = _Seconds(truth)
    return math.exp(-beta * _distance(_Seconds(pred), seconds) / seconds.length)


class _Seconds:
    """The seconds that a set of spans covers, overlapping ones merged, and how many of them lie before a time."""

    def __init__(self, spans: Sequence[Interval]) -> None:
        self.borders: list[float] = []
        """Start and end of each merged span in turn."""
        for start, end in sorted((float(start), float(end)) for start, end in spans):
            if self.borders and start <= self.borders[-1]:
                self.borders[-1] = max(end, self.borders[-1])
            else:
                self.borders += (start, end)
        self._before = [0.0]
        for index in range(1, len(self.borders)):
            inside = self.borders[index] - self.borders[index - 1] if index % 2 else 0.0
            self._before.append(self._before[-1] + inside)
        self.length = self._before[-1]

    def before(self, time: float) -> float:
        """How many covered seconds lie before ``time``."""
        index = bisect.bisect_right(self.borders, time)
        if index == 0:
            return 0.0
        inside = time - self.borders[index - 1] if index % 2 else 0.0
        return self._before[index - 1] + inside


def _usable(pred: Sequence[Interval], truth: Sequence[Interval]) -> bool:
    return bool(pred) and bool(truth) and all(map(is_interval, pred)) and all(map(is_interval, truth))


def _distance(a: _Seconds, b: _Seconds) -> float:
    """The area between the distribution functions of the uniform distributions on ``a`` and ``b``, in seconds."""
    times = sorted({*a.borders, *b.borders})
    gaps = [a.before(time) / a.length - b.before(time) / b.length for time in times]
    area = 0.0
    for width, left, right in zip(map(operator.sub, times[1:], times), gaps, gaps[1:], strict=False):
        if left * right < 0:  # the functions cross: two triangles
            area += width * (left * left + right * right) / (2 * (abs(left) + abs(right)))
        else:
            area += width * (abs(left) + abs(right)) / 2
    return area
