"""Detections of whole videos, what the field's evaluator does to them and to the ground truth, and their mAP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from invert_rl.evaluation.detection_ambiguous import Intervals
from invert_rl.tal.detect import mean_ap
from invert_rl.wtal.data import WeakData, WeakVideo
from invert_rl.wtal.model import SemanticLocalizer
from invert_rl.wtal.proposals import ProposalSettings, propose

Results = dict[str, list[dict[str, Any]]]
"""Per video ``{"segment", "label", "score"}``, in seconds."""
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
"""Of THUMOS14 in weakly supervised work [S table 1]."""


@dataclass(frozen=True)
class EvaluationRules:
    """What is counted. The defaults leave detections and ground truth as they are; DELU's evaluator on THUMOS14 has
    ``round_truth`` True and an ``ambiguous`` file [R]."""

    thresholds: tuple[float, ...] = THRESHOLDS
    protocol: str = "activitynet"
    """Clean-up of the ground truth: DELU's evaluator is ActivityNet's, without any."""
    round_truth: bool = False
    """Whether ground truth is rounded to whole snippets."""
    ambiguous: Intervals | None = None
    """Intervals in seconds of test videos; detections that touch one are not counted."""


@torch.no_grad()
def detect_videos(
    model: SemanticLocalizer, videos: Sequence[WeakVideo], classes: Sequence[str], settings: ProposalSettings
) -> Results:
    """Detections of whole ``videos``, each at its full length. The model's mode is restored."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    results: Results = {}
    for video in videos:
        found = model.activations(video.features[None].to(device))
        segments, scores, labels = propose(found.cas[0], found.attention[0], settings)
        times = video.grid.segments_in_seconds(segments.double(), video.duration)
        results[video.video] = [
            {"segment": time, "label": classes[label], "score": score}
            for time, score, label in zip(times.tolist(), scores.tolist(), labels.tolist(), strict=True)
        ]
    model.train(training)
    return results


def score(data: WeakData, results: Results, rules: EvaluationRules) -> dict[str, float]:
    """``average_mAP`` and ``mAP@t`` of each threshold, as fractions."""
    database = data.database
    if rules.round_truth:
        database = rounded(data)
    if rules.ambiguous is not None:
        results = without_ambiguous(data, results, rules.ambiguous)
    values, average = mean_ap(database, data.test_subset, results, rules.protocol, rules.thresholds)
    levels = {f"mAP@{level:g}": value for level, value in zip(rules.thresholds, values, strict=True)}
    return {"average_mAP": average, **levels}


def rounded(data: WeakData) -> dict[str, Any]:
    """The database with the test videos' times rounded to borders of snippets: ``round(seconds * 25 / 16)`` [R].

    Halves go to the even row, as Python rounds.
    """
    grids = {video.video: video.grid for video in data.test}
    database = deepcopy(data.database)
    for video, grid in grids.items():
        for entry in database[video]["annotations"]:
            entry["segment"] = [grid.seconds(float(round(grid.row(float(time))))) for time in entry["segment"]]
    return database


def without_ambiguous(data: WeakData, results: Results, ambiguous: Intervals) -> Results:
    """The results without detections that share a whole snippet with an ambiguous interval of their video [R].

    Intervals are rounded to borders of snippets first, detections down.
    """
    grids = {video.video: video.grid for video in data.test}
    kept: Results = {}
    for video, detections in results.items():
        grid = grids[video]
        spans = [(round(grid.row(start)), round(grid.row(end))) for start, end in ambiguous.get(video, [])]

        def touches(segment: Sequence[float], spans: Sequence[tuple[int, int]] = spans, grid: Any = grid) -> bool:
            start, end = (int(grid.row(time) + 1e-6) for time in segment)
            return any(min(end, last) > max(start, first) for first, last in spans)

        kept[video] = [entry for entry in detections if not touches(entry["segment"])]
    return kept


def percent(metrics: Mapping[str, float]) -> dict[str, float]:
    """Fractions as percent."""
    return {name: 100 * value for name, value in metrics.items()}
