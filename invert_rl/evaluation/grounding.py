"""Metrics of temporal grounding: R1@m and mIoU, in percent, over every annotated row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_prep.rows import Row, Window
from rewards.iou import interval_iou

THRESHOLDS = (0.3, 0.5, 0.7)


def best_ious(predicted: Sequence[Sequence[Window]], rows: Sequence[Row]) -> np.ndarray:
    """IoU of each row's first predicted window with its best ground-truth window; 0 without a prediction."""
    return np.array(
        [
            max(interval_iou(windows[0], truth) for truth in row.windows) if windows else 0.0
            for windows, row in zip(predicted, rows, strict=True)
        ]
    )


def grounding_metrics(predicted: Sequence[Sequence[Window]], rows: Sequence[Row]) -> dict[str, float]:
    """``R1@0.3``, ``R1@0.5``, ``R1@0.7`` (share of rows with IoU >= m) and ``mIoU``, in percent, and ``n``.

    ``predicted`` are each row's windows in seconds, best first; an empty list counts as IoU 0.
    """
    ious = best_ious(predicted, rows)
    metrics = {f"R1@{threshold}": 100 * float((ious >= threshold).mean()) for threshold in THRESHOLDS}
    return {**metrics, "mIoU": 100 * float(ious.mean()), "n": len(rows)}
