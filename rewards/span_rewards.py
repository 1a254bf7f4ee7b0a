"""Rewards of temporal grounding: what a completion's spans earn against the annotated windows of its row.

Every reward reads the column ``windows``: the annotated windows of each row as (start, end) in seconds, empty where
the query is not in the video, None where a row has no annotation (the reward is then None). On a row without a
window every reward pays 1 for an answer that says so (`rewards.answers.says_nothing_matches`) and 0 for any other;
on a row with windows that answer names no span.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from rewards import spans
from rewards.answers import (
    Completion,
    Span,
    answer_or_bare_text,
    completion_text,
    parse_span,
    parse_spans,
    read_spans,
    says_nothing_matches,
)
from rewards.errors import RewardError
from rewards.registry import register_reward
from rewards.spans import Interval

Windows: TypeAlias = Sequence[Sequence[Interval] | None]

MAX_SPANS = 100
"""An answer with more spans than this earns nothing where several are read."""

UNREADABLE = -1.0
"""What `parse_penalty` gives for an answer that cannot be read (TimeLens2's)."""


@register_reward("iou")
def iou(completions: Sequence[Completion], windows: Windows, **columns: Any) -> list[float | None]:
    """IoU of the answer's span with the annotated window, in [0, 1] (paper, eq. 8).

    Of several windows the best counts. 0 for an answer that names no span, or more than one.
    """
    return _one_span(completions, windows, lambda index, span, window: spans.interval_iou(span, window))


@register_reward("giou")
def giou(completions: Sequence[Completion], windows: Windows, **columns: Any) -> list[float | None]:
    """Generalized IoU, in [-1, 1]; else as `iou`.

    A span that misses is paid 0 or less, the less the farther off it is. The floor of -1 is what an answer without a
    span gets. (Cutting it off at 0 would make it equal to IoU: spans of one dimension that overlap have no gap.)
    """
    return _one_span(completions, windows, lambda index, span, window: spans.interval_giou(span, window), worst=-1.0)


@register_reward("timestamp_iou")
def timestamp_iou(
    completions: Sequence[Completion], windows: Windows, duration: Sequence[float | None], **columns: Any
) -> list[float | None]:
    """Timestamp-aware IoU of Time-R1, in [0, 1] (`rewards.spans.timestamp_iou`); else as `iou`.

    ``duration`` is each video's length in seconds; None gives None. Raises `RewardError` when it is not positive.
    """
    lengths: list[float] = []
    for index, seconds in enumerate(duration):
        if seconds is not None and not seconds > 0:
            raise RewardError(f"row {index} of the batch: duration {seconds!r} must be positive; repair the data")
        lengths.append(0.0 if seconds is None else seconds)
    known = [None if seconds is None else truth for truth, seconds in zip(windows, duration, strict=True)]
    return _one_span(completions, known, lambda index, span, window: spans.timestamp_iou(span, window, lengths[index]))


@register_reward("multi_window_iou")
def multi_window_iou(completions: Sequence[Completion], windows: Windows, **columns: Any) -> list[float | None]:
    """`rewards.spans.matched_iou` of all spans of the answer with all windows of the row, in [0, 1].

    0 for an answer without a span or with more than `MAX_SPANS`.
    """
    return _all_spans(completions, windows, spans.matched_iou)


@register_reward("set_iou")
def set_iou(completions: Sequence[Completion], windows: Windows, **columns: Any) -> list[float | None]:
    """`rewards.spans.set_iou` of all spans of the answer with all windows; else as `multi_window_iou`."""
    return _all_spans(completions, windows, spans.set_iou)


@register_reward("wasserstein")
def wasserstein(
    completions: Sequence[Completion], windows: Windows, *, beta: float = 1.0, **columns: Any
) -> list[float | None]:
    """`rewards.spans.wasserstein` of all spans of the answer with all windows; else as `multi_window_iou`."""
    return _all_spans(completions, windows, lambda pred, truth: spans.wasserstein(pred, truth, beta))


@register_reward("soft_iou")
def soft_iou(
    completions: Sequence[Completion], windows: Windows, *, threshold: float = 0.8, **columns: Any
) -> list[float | None]:
    """IoU on the scale of TempSamp-R1 (arXiv 2509.18056, soft advantage): nearly flat above ``threshold``.

    ``t + ln(r - t + 1) / 100`` for an IoU r of at least t, else ``t - (exp(t - r) - 1) / (e - 1)``: at t = 0.8 from
    0.087 for a miss to 0.802 for a hit. Else as `iou`.
    """
    return [None if reward is None else _soft(reward, threshold) for reward in iou(completions, windows)]


def _soft(reward: float, threshold: float) -> float:
    if reward >= threshold:
        return threshold + math.log(reward - threshold + 1) / 100
    return threshold - math.expm1(threshold - reward) / (math.e - 1)


@register_reward("parse_penalty")
def parse_penalty(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
    """0 for an answer that names spans or says that nothing matches, `UNREADABLE` for any other.

    How many spans were asked for is left to the other rewards and to the format.
    """
    return [0.0 if read_spans(answer) is not None else UNREADABLE for answer in _answers(completions)]


def _answers(completions: Sequence[Completion]) -> Iterator[str]:
    return (answer_or_bare_text(completion_text(completion)) for completion in completions)


def _one_span(
    completions: Sequence[Completion],
    windows: Windows,
    score: Callable[[int, Span, Interval], float],
    worst: float = 0.0,
) -> list[float | None]:
    """The best ``score(row, span, window)`` over the row's windows, ``worst`` without exactly one span."""

    def of_row(index: int, answer: str, truth: Sequence[Interval]) -> float:
        span = parse_span(answer)
        return worst if span is None else max(score(index, span, window) for window in truth)

    return _each(completions, windows, of_row)


def _all_spans(
    completions: Sequence[Completion],
    windows: Windows,
    score: Callable[[Sequence[Interval], Sequence[Interval]], float],
) -> list[float | None]:
    """``score(spans, windows)`` of each row, 0 for more than `MAX_SPANS` spans."""

    def of_row(index: int, answer: str, truth: Sequence[Interval]) -> float:
        named = parse_spans(answer)
        return score(named, truth) if len(named) <= MAX_SPANS else 0.0

    return _each(completions, windows, of_row)


def _each(
    completions: Sequence[Completion], windows: Windows, of_row: Callable[[int, str, Sequence[Interval]], float]
) -> list[float | None]:
    """``of_row(index, answer, windows)`` where there are windows, the refusal's reward where there are none."""
    scores: list[float | None] = []
    for index, (answer, truth) in enumerate(zip(_answers(completions), windows, strict=True)):
        if truth is None:
            scores.append(None)
        elif len(truth) == 0:
            scores.append(float(says_nothing_matches(answer)))
        else:
            scores.append(of_row(index, answer, truth))
    return scores
