"""What ten lines do without the method: rows scored by a fixed rule, stretches of them as detections.

A result on generated data means something only beside these (`detections_of` what a rule gives each row).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from invert_rl.evaluation.detection.scoring import score_results
from invert_rl.tal.grid import Grid
from invert_rl.tal.nms import Suppression, suppress

LEVELS = 10
"""Heights of a row score, between its least and its most in a video, at which stretches above are taken."""
MARGIN = 0.25
"""Of a stretch's length, what is looked at on either side."""

REACH = 3
"""Rows on either side of a row that `windows` shows with it."""
NEIGHBOURS = 20
"""Training rows that a row is compared with."""

Rows = Callable[[str], np.ndarray]
"""Scores ``(T, C)`` of a video's rows for each class."""


def detections_of(scores: np.ndarray, classes: Sequence[str], grid: Grid, duration: float) -> list[dict[str, Any]]:
    """Stretches of rows above `LEVELS` heights of each class, scored by inside minus outside, softly suppressed.

    Takes row scores ``(T, C)`` and the grid on which row r begins half a row before r.
    """
    found: list[tuple[float, float, float, int]] = []
    for label in range(scores.shape[1]):
        values = scores[:, label]
        low, high = float(values.min()), float(values.max())
        for level in np.linspace(low, high, LEVELS + 2)[1:-1]:
            edges = np.flatnonzero(np.diff(np.r_[0, (values > level).astype(int), 0]))
            for start, end in zip(edges[::2], edges[1::2], strict=True):
                near = max(1, round(MARGIN * (end - start)))
                outside = np.r_[values[max(0, start - near) : start], values[end : end + near]]
                gain = float(values[start:end].mean() - (outside.mean() if len(outside) else low))
                found.append((float(start), float(end), gain, label))
    if not found:
        return []
    table = np.array(found)
    segments, values, labels = suppress(
        torch.from_numpy(table[:, :2]).float(),
        torch.from_numpy(table[:, 2]).float().clamp(min=1e-6),
        torch.from_numpy(table[:, 3]).long(),
        Suppression(sigma=0.3, min_score=0.0, max_segments=100),
    )
    times = grid.segments_in_seconds(segments.double() - 0.5, duration).tolist()
    return [
        {"segment": time, "label": classes[label], "score": value}
        for time, value, label in zip(times, values.tolist(), labels.tolist(), strict=True)
    ]


def best_rule(
    rules: Mapping[str, Rows],
    videos: Sequence[tuple[str, Grid, float]],
    classes: Sequence[str],
    database: Mapping[str, Any],
    subset: str,
    protocol: str,
    thresholds: Sequence[float] | None = None,
) -> dict[str, Any]:
    """For ``summary.json``: the metrics of the best of ``rules``, its name as ``rule``, and each one's average mAP.

    ``videos`` are names, grids and durations in seconds.
    """
    scored = {}
    for name, rows in rules.items():
        results = {video: detections_of(rows(video), classes, grid, duration) for video, grid, duration in videos}
        scored[name] = score_results(database, results, subset, protocol, thresholds).metrics
    best = max(scored, key=lambda name: scored[name]["average_mAP"])
    return {**scored[best], "rule": best, "rules": {name: one["average_mAP"] for name, one in scored.items()}}


def class_means(features: Sequence[np.ndarray], rows: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """Mean features ``(C + 1, D)`` of the rows of each class, background last.

    Takes features ``(T, D)`` and class ids ``(T,)`` of each video, -1 for background.
    """
    table, ids = np.concatenate(list(features)), np.concatenate(list(rows))
    ids = np.where(ids < 0, classes, ids)
    return np.stack([table[ids == index].mean(axis=0) for index in range(classes + 1)])


def nearest_mean(features: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Row scores ``(T, C)``: how much nearer a row is to a class's mean than to the nearest other one, else 0."""
    distance = np.linalg.norm(features[:, None] - means[None], axis=-1)  # (T, C + 1)
    order = np.sort(distance, axis=1)
    margin = np.where(distance == order[:, :1], order[:, 1:2], order[:, :1]) - distance
    return np.maximum(margin, 0.0)[:, :-1]


def smoothed(scores: np.ndarray, rows: int = 5) -> np.ndarray:
    """Row scores ``(T, C)`` averaged over ``rows`` neighbours."""
    kernel = np.ones(rows) / rows
    return np.stack([np.convolve(values, kernel, "same") for values in scores.T], axis=1)


def windows(features: np.ndarray, reach: int = REACH) -> np.ndarray:
    """Each row of ``(T, D)`` with ``reach`` more on either side, ``(T, (2 reach + 1) D)``; ends are repeated."""
    padded = np.pad(features, ((reach, reach), (0, 0)), mode="edge")
    return np.concatenate([padded[place : place + len(features)] for place in range(2 * reach + 1)], axis=1)


def neighbours_of(features: np.ndarray, table: np.ndarray, owners: np.ndarray, count: int = NEIGHBOURS) -> np.ndarray:
    """Mean ``(T, C)`` of what the nearest ``count`` rows of ``table`` ``(N, D)`` have in ``owners`` ``(N, C)``."""
    count = min(count, len(table))
    distance = (table**2).sum(axis=1) - 2 * features @ table.T  # but for the length of the row itself
    nearest = np.argpartition(distance, count - 1, axis=1)[:, :count]
    return owners[nearest].mean(axis=1)
