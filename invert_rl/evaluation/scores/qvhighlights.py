"""QVHighlights' own metrics, as moment_detr's evaluator defines them: MR-R1, MR-mAP and highlight detection.

All are percent, rounded to two digits as there. A query without a prediction scores 0; there it is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.rows import Window

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
LENGTHS = {"short": (0.0, 10.0), "middle": (10.0, 30.0), "long": (30.0, 150.0)}
"""Seconds: a ground-truth window counts where ``from < length <= to``."""
MOST_WINDOWS = 10
"""The first this many windows of a query count, in the order of the file, whatever their scores."""
CLIP_SECONDS = 2.0
SALIENCY = {"Fair": 2, "Good": 3, "VeryGood": 4}


def moment_metrics(
    predicted: Sequence[Sequence[Window]], scores: Sequence[Sequence[float]], truth: Sequence[Sequence[Window]]
) -> dict[str, Any]:
    """``brief`` (MR-full-R1@0.5, MR-full-mAP, …) and, for full, long, middle and short, ``MR-mAP`` and ``MR-R1``.

    Each query has predicted windows (seconds), their scores (or none: then the order ranks them) and its ground-truth
    windows. R1 takes the first window of the file, not the one with the highest score.
    """
    metrics: dict[str, Any] = {"full": _range_metrics(predicted, scores, truth)}
    for name, (shortest, longest) in LENGTHS.items():
        kept = [[window for window in windows if shortest < window[1] - window[0] <= longest] for windows in truth]
        places = [place for place, windows in enumerate(kept) if windows]
        if places:
            metrics[name] = _range_metrics(
                [predicted[place] for place in places],
                [scores[place] for place in places],
                [kept[place] for place in places],
            )
    full = metrics["full"]
    brief = {
        "MR-full-mAP": full["MR-mAP"]["average"],
        "MR-full-mAP@0.5": full["MR-mAP"]["0.5"],
        "MR-full-mAP@0.75": full["MR-mAP"]["0.75"],
        **{f"MR-{name}-mAP": metrics[name]["MR-mAP"]["average"] for name in LENGTHS if name in metrics},
        "MR-full-R1@0.5": full["MR-R1"]["0.5"],
        "MR-full-R1@0.7": full["MR-R1"]["0.7"],
    }
    return {"brief": brief, **metrics}


def _range_metrics(
    predicted: Sequence[Sequence[Window]], scores: Sequence[Sequence[float]], truth: Sequence[Sequence[Window]]
) -> dict[str, dict[str, float]]:
    precision = np.array([average_precision(*query) for query in zip(predicted, scores, truth, strict=True)])
    by_threshold = precision.mean(axis=0)
    first = [
        float(_ious(np.array(windows[:1], dtype=float), np.array(true, dtype=float)).max()) if windows else 0.0
        for windows, true in zip(predicted, truth, strict=True)
    ]
    recall = [float(np.mean(np.array(first) >= threshold)) for threshold in THRESHOLDS]
    names = [str(threshold) for threshold in THRESHOLDS]
    return {
        "MR-mAP": {
            **{name: _percent(value) for name, value in zip(names, by_threshold.tolist(), strict=True)},
            "average": _percent(float(by_threshold.mean())),
        },
        "MR-R1": {name: _percent(value) for name, value in zip(names, recall, strict=True)},
    }


def average_precision(predicted: Sequence[Window], scores: Sequence[float], truth: Sequence[Window]) -> np.ndarray:
    """Average precision of one query at each of the ten thresholds, in [0, 1], shape (10,).

    Windows by falling score; each takes the best-fitting ground-truth window that no earlier one took, if its IoU
    reaches the threshold. Area under the interpolated precision-recall curve.
    """
    windows = np.array(predicted[:MOST_WINDOWS], dtype=float).reshape(-1, 2)
    if len(windows) == 0:
        return np.zeros(len(THRESHOLDS))
    if scores:
        windows = windows[np.argsort(-np.array(scores[:MOST_WINDOWS]), kind="stable")]
    ious = _ious(windows, np.array(truth, dtype=float))
    # candidates of each window: (IoU, ground-truth window), best first
    candidates = [
        [(row[true], true) for true in order]
        for row, order in zip(ious.tolist(), ious.argsort(axis=1)[:, ::-1].tolist(), strict=True)
    ]
    result = np.zeros(len(THRESHOLDS))
    known: dict[tuple[int, ...], float] = {}
    for place, threshold in enumerate(THRESHOLDS):
        taken: set[int] = set()
        hits = []
        for row in candidates:
            free = next((true for iou, true in row if iou >= threshold and true not in taken), None)
            hits.append(int(free is not None))
            if free is not None:
                taken.add(free)
        key = tuple(hits)
        if key not in known:
            known[key] = _area(np.cumsum(hits), len(truth))
        result[place] = known[key]
    return result


def _area(hits: np.ndarray, positives: int) -> float:
    """Area under the interpolated precision-recall curve from the running number of hits."""
    precision = np.concatenate([[0.0], hits / np.arange(1, len(hits) + 1), [0.0]])
    recall = np.concatenate([[0.0], hits / positives, [1.0]])
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())


def _ious(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """IoU of each of ``predicted`` (P, 2) with each of ``truth`` (T, 2), by lengths as moment_detr, (P, T)."""
    left = np.maximum(predicted[:, None, 0], truth[None, :, 0])
    right = np.minimum(predicted[:, None, 1], truth[None, :, 1])
    intersection = np.clip(right - left, 0, None)
    lengths = (predicted[:, 1] - predicted[:, 0])[:, None] + (truth[:, 1] - truth[:, 0])[None, :]
    union = lengths - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union != 0)


def highlight_metrics(
    saliency: Sequence[Sequence[float]],
    relevant_clips: Sequence[Sequence[int]],
    annotated: Sequence[Sequence[Sequence[float]]],
    durations: Sequence[float],
) -> dict[str, dict[str, float]]:
    """``HL-min-Fair``, ``HL-min-Good`` and ``HL-min-VeryGood``: ``HL-mAP`` and ``HL-Hit1`` of each query's saliency.

    ``saliency`` are predicted scores of the 2 s clips of each video, ``annotated`` the three annotators' scores of
    the ``relevant_clips``; every other clip has 0.
    """
    queries = []
    for clips, scores, seconds in zip(relevant_clips, annotated, durations, strict=True):
        levels = np.zeros((int(seconds / CLIP_SECONDS), 3))
        levels[np.array(clips, dtype=int)] = np.array(scores, dtype=float)
        queries.append(levels)
    metrics = {}
    for name, least in SALIENCY.items():
        precisions, hits = [], []
        for predicted, levels in zip(saliency, queries, strict=True):
            positive = levels >= least
            clip = int(np.argmax(predicted)) if len(predicted) else len(positive)
            hits.append(float(positive[clip].any()) if clip < len(positive) else 0.0)
            fitted = np.zeros(len(positive))
            fitted[: min(len(fitted), len(predicted))] = predicted[: len(fitted)]
            precisions.append([_clip_precision(positive[:, worker], fitted) for worker in range(3)])
        metrics[f"HL-min-{name}"] = {
            "HL-mAP": _percent(float(np.mean(precisions))),
            "HL-Hit1": _percent(float(np.mean(hits))),
        }
    return metrics


def highlight_brief(metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    """`highlight_metrics` under moment_detr's flat names, such as ``HL-min-Good-mAP``."""
    return {f"{level}-{name[3:]}": value for level, values in metrics.items() for name, value in values.items()}


def _clip_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    """Mean interpolated precision over the steps of recall; 0 without and 1 with nothing but positive clips."""
    if positive.all() or not positive.any():
        return float(positive.all())
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # equal scores are one step
    hits = np.cumsum(positive[order])[ends]
    precision = np.maximum.accumulate((hits / (ends + 1))[::-1])[::-1]
    return float(precision[np.diff(hits, prepend=0) > 0].mean())


def _percent(fraction: float) -> float:
    return float(f"{100 * fraction:.2f}")
