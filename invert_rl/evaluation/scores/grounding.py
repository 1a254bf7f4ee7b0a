"""Metrics of temporal grounding: R1@m, R5@m and mIoU, in percent, over every annotated row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_prep.rows import Row, Window
from rewards.spans import set_iou

THRESHOLDS = (0.3, 0.5, 0.7)
RANKED = 5
"""R5 looks at this many windows."""


def paired_iou(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """IoU of windows ``(…, 2)`` in seconds with windows of the same shape, ``(…,)`` in [0, 1] (paper, eq. 8).

    Computed as intersection over hull, like VSLNet and the video LLM evaluators, so that an IoU that is a threshold
    exactly falls on the same side as theirs. 0 where a window is empty, reversed or nan.
    """
    start, end = predicted[..., 0], predicted[..., 1]
    true_start, true_end = truth[..., 0], truth[..., 1]
    intersection = np.minimum(end, true_end) - np.maximum(start, true_start)
    hull = np.maximum(end, true_end) - np.minimum(start, true_start)
    proper = (start < end) & (true_start < true_end) & (intersection > 0)
    return np.divide(intersection, hull, out=np.zeros(proper.shape), where=proper)


def ranked_ious(predicted: Sequence[Sequence[Window]], rows: Sequence[Row], ranks: int = RANKED) -> np.ndarray:
    """IoU of each row's first ``ranks`` windows with the ground-truth window that fits best, ``(rows, ranks)``.

    ``predicted`` are each row's windows in seconds, best first; 0 where there is none.
    """
    if len(predicted) != len(rows):
        raise ValueError(f"{len(predicted)} predictions for {len(rows)} rows")
    counts = np.array([len(row.windows) for row in rows])
    truth = np.array([window for row in rows for window in row.windows], dtype=float)
    firsts = np.cumsum(counts) - counts
    ranked = np.full((len(rows), ranks, 2), np.nan)
    for place, windows in enumerate(predicted):
        if windows:
            ranked[place, : len(windows)] = windows[:ranks]
    ious = paired_iou(np.repeat(ranked, counts, axis=0), truth[:, None, :])
    return np.maximum.reduceat(ious, firsts, axis=0)


def best_ious(predicted: Sequence[Sequence[Window]], rows: Sequence[Row]) -> np.ndarray:
    """IoU of each row's first predicted window with its best ground-truth window; 0 without a prediction."""
    return ranked_ious(predicted, rows, ranks=1)[:, 0]


def grounding_metrics(
    predicted: Sequence[Sequence[Window]],
    rows: Sequence[Row],
    strict: bool = False,
    thresholds: Sequence[float] = THRESHOLDS,
    ranks: Sequence[int] | None = None,
) -> dict[str, float]:
    """``R1@0.3``, ``R1@0.5``, ``R1@0.7`` (share of rows with IoU >= m) and ``mIoU``, in percent, and ``n``.

    ``predicted`` are each row's windows in seconds, best first; an empty list counts as IoU 0. With several windows
    for some row also ``R5@m``, the best of the first five, unless ``ranks`` says which. ``strict`` asks for IoU > m, as
    2D-TAN and Time-R1 do.
    """
    if ranks is None:
        ranks = (1, RANKED) if any(len(windows) > 1 for windows in predicted) else (1,)
    return summarize_ious(ranked_ious(predicted, rows, max(ranks)), strict, thresholds, ranks)


def summarize_ious(
    ious: np.ndarray, strict: bool, thresholds: Sequence[float], ranks: Sequence[int]
) -> dict[str, float]:
    """``R{rank}@m``, ``mIoU`` of the first windows and ``n`` of IoUs ``(rows, ranks)``, in percent."""
    metrics: dict[str, float] = {}
    for rank in ranks:
        metrics |= recalls(ious[:, :rank].max(axis=1), f"R{rank}", strict, thresholds)
    return {**metrics, "mIoU": 100 * float(ious[:, 0].mean()), "n": len(ious)}


def set_ious(predicted: Sequence[Sequence[Window]], rows: Sequence[Row]) -> np.ndarray:
    """IoU of the union of each row's predicted windows with the union of all its windows; 0 without a prediction."""
    if len(predicted) != len(rows):
        raise ValueError(f"{len(predicted)} predictions for {len(rows)} rows")
    return np.array([set_iou(windows, row.windows) for windows, row in zip(predicted, rows, strict=True)])


def set_metrics(predicted: Sequence[Sequence[Window]], rows: Sequence[Row], strict: bool = False) -> dict[str, float]:
    """As `grounding_metrics` where all moments of a query are asked: ``R1@m`` and ``mIoU`` are those of `set_ious`."""
    return summarize_ious(set_ious(predicted, rows)[:, None], strict, THRESHOLDS, (1,))


def recalls(
    ious: np.ndarray, name: str, strict: bool = False, thresholds: Sequence[float] = THRESHOLDS
) -> dict[str, float]:
    """``{name}@m`` for each threshold m: the share of ``ious`` at or above it (``strict``: above it), in percent."""
    return {
        f"{name}@{threshold}": 100 * float((ious > threshold if strict else ious >= threshold).mean())
        for threshold in thresholds
    }
