"""Scores of published benchmarks beyond one IoU a row: VUE-TR's areas, IoP, F1 of several spans, refusals.

All are percent over the rows given, each with its predicted and its annotated windows in seconds, and ``n``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from data_prep.rows import Row, Window
from invert_rl.evaluation.scores.grounding import paired_iou, summarize_ious
from rewards.spans import interval_iou

if TYPE_CHECKING:
    from invert_rl.evaluation.predictions import Prediction

Windows = Sequence[Window]

_STEPS = np.linspace(0, 1, 101)
"""Thresholds of VUE-TR's areas."""


def vue_tr_metrics(
    predicted: Sequence[Windows], truth: Sequence[Windows], thresholds: Sequence[float], strict: bool = False
) -> dict[str, float]:
    """``precision``, ``recall`` and ``IoU`` as VUE-TR prints them, and ``R1@m`` and ``mIoU`` of the same set IoU.

    Each is the area under the share of queries above t, for t from 0 to 1: IoU > t, precision and recall >= t
    (VUE_TR_V2/qa_eval.py). A query without predicted seconds is left out of precision and stays in the others.
    """
    ious = np.array([_union_iou(windows, true) for windows, true in zip(predicted, truth, strict=True)])
    shared = np.array([_shared(windows, true) for windows, true in zip(predicted, truth, strict=True)])
    named = np.array([sum(abs(end - start) for start, end in windows) for windows in predicted])
    length = np.array([sum(abs(end - start) for start, end in true) for true in truth])
    precision, recall = shared[named != 0] / named[named != 0], shared[length != 0] / length[length != 0]
    return {
        "precision": 100 * _area([float((precision >= t).mean()) if len(precision) else 0.0 for t in _STEPS]),
        "recall": 100 * _area([float((recall >= t).mean()) if len(recall) else 0.0 for t in _STEPS]),
        "IoU": 100 * _area([float((ious > t).mean()) for t in _STEPS]),
        **summarize_ious(ious[:, None], strict, thresholds, (1,)),
    }


def iop_metrics(
    predicted: Sequence[Windows], truth: Sequence[Windows], thresholds: Sequence[float], strict: bool = False
) -> dict[str, float]:
    """NExT-GQA's grounding part: ``R1@m`` and ``mIoU``, and ``IoP@m`` and ``mIoP`` (intersection over prediction).

    The first window counts, with the annotated window that it fits best by each measure (eval_ground.py).
    """
    ious, iops = [], []
    for windows, true in zip(predicted, truth, strict=True):
        found = windows[:1]
        ious.append(max((interval_iou(window, other) for window in found for other in true), default=0.0))
        iops.append(max((_over_prediction(window, other) for window in found for other in true), default=0.0))
    values = np.array(iops)
    reached = {f"IoP@{m}": 100 * float((values > m if strict else values >= m).mean()) for m in thresholds}
    return {
        **summarize_ious(np.array(ious)[:, None], strict, thresholds, (1,)),
        **reached,
        "mIoP": 100 * float(values.mean()),
    }


def f1_metrics(
    predicted: Sequence[Windows], truth: Sequence[Windows], thresholds: Sequence[float], strict: bool = False
) -> dict[str, float]:
    """MUSEG's F1 of several spans, ``F1@m`` and their mean ``F1``, and ``R1@m`` and ``mIoU`` of first spans.

    Of a row recall is the share of its windows whose best IoU reaches m, precision that of the predicted ones; no
    matching, so that two predictions may share a window. 0 without a prediction (MUSEG src/eval_grounding.py).
    """
    scores, firsts = np.zeros((len(predicted), len(thresholds))), np.zeros(len(predicted))
    for place, (windows, true) in enumerate(zip(predicted, truth, strict=True)):
        if not windows:
            continue
        table = paired_iou(np.array(windows, dtype=float)[:, None], np.array(true, dtype=float)[None])
        firsts[place] = table[0, 0]
        for column, m in enumerate(thresholds):
            hits = table > m if strict else table >= m
            precision, recall = hits.any(axis=1).mean(), hits.any(axis=0).mean()
            scores[place, column] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    means = 100 * scores.mean(axis=0)
    return {
        **summarize_ious(firsts[:, None], strict, thresholds, (1,)),
        **{f"F1@{m}": float(value) for m, value in zip(thresholds, means, strict=True)},
        "F1": float(means.mean()),
    }


def refusal_metrics(
    predictions: Sequence[Prediction | None], rows: Sequence[Row], thresholds: Sequence[float], strict: bool = False
) -> dict[str, float]:
    """RA-RFT's scores over queries that are in their video and queries that are not (rows without windows).

    ``RA_mIoU`` and ``RA_R1@m``: a right refusal is 1, a wrong decision 0, else the IoU; ``relevance``: the accuracy of
    the decision; ``relevant_*`` and ``refused_*``: precision, recall and F1 of each of the two. An answer that cannot
    be read decides nothing and is wrong; RA-RFT's judge takes it for a refusal.
    """
    decided = [_decision(prediction) for prediction in predictions]
    values = np.array(
        [
            _aware_iou(prediction, decision, row)
            for prediction, decision, row in zip(predictions, decided, rows, strict=True)
        ]
    )
    truth = ["relevant" if row.windows else "refused" for row in rows]
    metrics = {f"RA_R1@{m}": 100 * float((values > m if strict else values >= m).mean()) for m in thresholds} | {
        "RA_mIoU": 100 * float(values.mean())
    }
    metrics["relevance"] = 100 * float(np.mean([a == b for a, b in zip(decided, truth, strict=True)]))
    for kind in ("relevant", "refused"):
        both = sum(a == b == kind for a, b in zip(decided, truth, strict=True))
        said, true = decided.count(kind), truth.count(kind)
        metrics[f"{kind}_precision"] = 100 * both / max(1, said)
        metrics[f"{kind}_recall"] = 100 * both / max(1, true)
        metrics[f"{kind}_F1"] = 200 * both / max(1, said + true)
    return {**metrics, "n": len(rows)}


def _decision(prediction: Prediction | None) -> str:
    if prediction is None or prediction.status != "ok":
        return "none"
    return "relevant" if prediction.windows else "refused"


def _aware_iou(prediction: Prediction | None, decision: str, row: Row) -> float:
    if not row.windows:
        return float(decision == "refused")
    if prediction is None or decision != "relevant":
        return 0.0
    return max(interval_iou(prediction.windows[0], window) for window in row.windows)


def _over_prediction(window: Window, true: Window) -> float:
    """Intersection over the predicted length; a point inside the window is 1, as in NExT-GQA's code."""
    start, end = window
    if start == end:
        return float(true[0] <= start <= true[1])
    return max(0.0, (min(end, true[1]) - max(start, true[0])) / (end - start)) if end > start else 0.0


def _union_iou(predicted: Windows, truth: Windows) -> float:
    """VUE-TR's IoU of unions: predictions merged, reversed ones dropped, annotated windows as they are."""
    if not truth or not predicted:
        return float(not truth and not predicted)
    merged: list[list[float]] = []
    for start, end in sorted(predicted, key=lambda window: window[0]):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    merged = [span for span in merged if span[0] <= span[1]]
    if not merged:
        return 0.0
    shared = sum(max(0.0, min(end, b) - max(start, a)) for start, end in merged for a, b in truth)
    union = sum(end - start for start, end in merged) + sum(b - a for a, b in truth) - shared
    return max(0.0, min(1.0, shared / (union + 1e-16)))


def _shared(predicted: Windows, truth: Windows) -> float:
    """Seconds of the intersection by one walk along both lists as given, neither merged nor sorted."""
    left = [sorted(window) for window in truth]
    right = [sorted(window) for window in predicted]
    i = j = 0
    seconds = 0.0
    while i < len(left) and j < len(right):
        start, end = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if start <= end:
            seconds += end - start
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return seconds


def _area(shares: Sequence[float]) -> float:
    return float(np.trapezoid(shares, _STEPS))
