"""Span rewards of temporal grounding: IoU and its variants (paper, eq. 8). All times in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from scipy.optimize import linear_sum_assignment

from rewards.answers import Completion, Span, answer_or_bare_text, completion_text, parse_span, parse_spans
from rewards.errors import RewardError

Interval: TypeAlias = Sequence[float]

MAX_SPANS = 100
"""An answer with more spans than this scores 0 in the multi-window reward."""


def is_interval(span: Interval) -> bool:
    """Whether ``span`` has two finite ends, the first before the second."""
    start, end = span
    return math.isfinite(start) and math.isfinite(end) and start < end


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

    -1 when either interval is empty, reversed or not finite.
    """
    if not (is_interval(a) and is_interval(b)):
        return -1.0
    hull = max(a[1], b[1]) - min(a[0], b[0])
    gap = max(0.0, max(a[0], b[0]) - min(a[1], b[1]))
    return interval_iou(a, b) - gap / hull


def timestamp_iou(predicted: Interval, truth: Interval, duration: float) -> float:
    """Timestamp-aware IoU, in [0, 1]: ``IoU · (1 − |Δs|/D) · (1 − |Δe|/D)`` with D the video's length.

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
    rows, columns = linear_sum_assignment(table, maximize=True)
    total = sum(table[row][column] for row, column in zip(rows, columns, strict=True))
    return min(1.0, total / max(len(predicted), len(truth)))


def iou_reward(
    completions: Sequence[Completion],
    task: Sequence[str],
    windows: Sequence[Sequence[Interval]],
    **columns: Any,
) -> list[float | None]:
    """IoU of the answer's span with the ground truth, in [0, 1] (paper, eq. 8).

    ``windows`` holds the ground-truth windows of each row; of several the best counts. 0 for an answer that
    names no span; None for tasks other than "tvg".
    """
    return _score(completions, task, lambda i, span: max(interval_iou(span, window) for window in windows[i]))


def giou_reward(
    completions: Sequence[Completion],
    task: Sequence[str],
    windows: Sequence[Sequence[Interval]],
    **columns: Any,
) -> list[float | None]:
    """Generalized IoU mapped to [0, 1] as ``(1 + gIoU) / 2``; else as `iou_reward`."""
    return _score(
        completions, task, lambda i, span: max((1 + interval_giou(span, window)) / 2 for window in windows[i])
    )


def timestamp_iou_reward(
    completions: Sequence[Completion],
    task: Sequence[str],
    windows: Sequence[Sequence[Interval]],
    duration: Sequence[float],
    **columns: Any,
) -> list[float | None]:
    """Timestamp-aware IoU, in [0, 1]; else as `iou_reward`.

    ``duration`` is each video's length in seconds; raises `RewardError` when it is not positive.
    """
    for index, seconds in enumerate(duration):
        if task[index] == "tvg" and not seconds > 0:
            raise RewardError(f"row {index} of the batch: duration {seconds!r} must be positive; repair the data")
    return _score(
        completions,
        task,
        lambda i, span: max(timestamp_iou(span, window, duration[i]) for window in windows[i]),
    )


def multi_window_iou_reward(
    completions: Sequence[Completion],
    task: Sequence[str],
    windows: Sequence[Sequence[Interval]],
    **columns: Any,
) -> list[float | None]:
    """`matched_iou` of all spans of the answer with all windows of the row, in [0, 1] (for QVHighlights).

    0 for an answer without a span or with more than `MAX_SPANS`; None for tasks other than "tvg".
    """
    scores: list[float | None] = []
    for completion, name, truth in zip(completions, task, windows, strict=True):
        if name != "tvg":
            scores.append(None)
            continue
        spans = parse_spans(answer_or_bare_text(completion_text(completion)))
        scores.append(matched_iou(spans, truth) if len(spans) <= MAX_SPANS else 0.0)
    return scores


def _score(
    completions: Sequence[Completion], task: Sequence[str], score: Callable[[int, Span], float]
) -> list[float | None]:
    """``score(index, span)`` of each TVG answer with one span, 0 without a span, None for other tasks."""
    scores: list[float | None] = []
    for index, (completion, name) in enumerate(zip(completions, task, strict=True)):
        if name != "tvg":
            scores.append(None)
            continue
        span = parse_span(answer_or_bare_text(completion_text(completion)))
        scores.append(0.0 if span is None else score(index, span))
    return scores
