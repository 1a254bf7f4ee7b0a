"""Detections against ground truth under one protocol: the one place that commands and recipes score in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from invert_rl.evaluation.detection.ambiguous import Intervals
from invert_rl.evaluation.detection.files import predictions_of, truth_of
from invert_rl.evaluation.detection.precision import DetectionResult, Segments, evaluate_detection
from invert_rl.evaluation.detection.protocols import (
    PROTOCOLS,
    DetectionProtocol,
    check_labels,
    clean_predictions,
    clean_truth,
)


@dataclass(frozen=True)
class Scored:
    """A result, and what it counts."""

    result: DetectionResult
    thresholds: tuple[float, ...]
    n_videos: int
    n_ground_truth: int
    n_ground_truth_dropped: int
    n_predictions: int
    """As given."""
    n_predictions_short: int
    n_predictions_ambiguous: int
    n_predictions_ignored: int
    """Of classes without ground truth."""

    @property
    def metrics(self) -> dict[str, float]:
        """``average_mAP`` and ``mAP@t`` of each threshold as fractions, and ``n``, the ground truths that count."""
        levels = zip(self.thresholds, self.result.mean_ap, strict=True)
        return {
            "average_mAP": self.result.average_map,
            **{f"mAP@{level:g}": value for level, value in levels},
            "n": float(self.n_ground_truth),
        }


def score_segments(
    truth: Segments,
    predictions: Segments,
    protocol: DetectionProtocol,
    thresholds: Sequence[float] | None = None,
    top_k: Sequence[int] = (1, 5),
    ties: str = "last",
    ambiguous: Intervals | None = None,
    unknown_labels: str | None = None,
    where: str = "the predictions",
) -> Scored:
    """AP and recall of predictions in seconds against ground truth in seconds, cleaned as ``protocol`` says.

    ``unknown_labels`` overrides the protocol's; ``where`` names the predictions in errors. Raises `DataError` without
    ground truth, and as `check_labels` does where ``unknown_labels`` is given.
    """
    cleaned = clean_truth(truth, protocol)
    counted, short, left_out = clean_predictions(predictions, protocol, ambiguous)
    ignored = check_labels(cleaned, counted, unknown_labels, where) if unknown_labels is not None else 0
    levels = tuple(thresholds or protocol.thresholds)
    return Scored(
        evaluate_detection(cleaned, counted, levels, top_k, ties, protocol.undefined_matches),
        levels,
        len(set(cleaned.videos.tolist())),
        len(cleaned),
        len(truth) - len(cleaned),
        len(predictions),
        short,
        left_out,
        ignored,
    )


def score_results(
    database: Mapping[str, Any],
    results: Mapping[str, Any],
    subset: str,
    protocol: str,
    thresholds: Sequence[float] | None = None,
    ambiguous: Intervals | None = None,
) -> Scored:
    """A run's detections ``{video: [{"segment", "label", "score"}]}`` against an annotation database, in seconds.

    Segments that ``invert-rl convert`` clipped or dropped count as published (see `scored_annotations`).
    """
    truth = truth_of({"database": database}, "the annotations", subset)
    predictions = predictions_of({"results": results}, "the results")
    return score_segments(truth, predictions, PROTOCOLS[protocol], thresholds, ambiguous=ambiguous)
