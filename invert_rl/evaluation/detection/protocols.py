"""What the evaluators of temporal action localization do differently: clean-up of ground truth, labels, thresholds.

Measured by running them (shared golden numbers): the matching and the AP are the same everywhere; a number is only
comparable with numbers of the same protocol.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from data_prep.errors import DataError
from invert_rl.evaluation.detection.ambiguous import Intervals, outside
from invert_rl.evaluation.detection.precision import Segments

DUPLICATE_SECONDS = 1e-3
"""Ground truths of one label whose borders differ by no more than this are one (ActionFormer, OpenTAD)."""
THUMOS = (0.3, 0.4, 0.5, 0.6, 0.7)
WEAK_THUMOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
"""Of weakly supervised work."""
ACTIVITYNET = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
EPIC = (0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class DetectionProtocol:
    """The rules of one evaluator."""

    name: str
    thresholds: tuple[float, ...]
    """tIoU thresholds where none are given."""
    subset: str | None = None
    """Subset where none is given and the file has several."""
    shortest: float = -np.inf
    """Ground truth shorter than this many seconds is dropped."""
    merge_duplicates: bool = False
    """Whether ground truths of one label within `DUPLICATE_SECONDS` of each other count once."""
    unknown_labels: str = "ignore"
    """``error`` or ``ignore``: predictions of a class that has no ground truth."""
    undefined_matches: bool = True
    """Whether a tIoU of 0/0 counts as a hit (see `invert_rl.evaluation.detection.precision.evaluate_detection`)."""
    snippet: tuple[float, float] | None = None
    """Frames a second and frames of a snippet: all times are rounded to whole snippets first. None: seconds."""
    shortest_prediction: float = -np.inf
    """Predictions shorter than this, in snippets, are dropped."""


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        DetectionProtocol("activitynet", ACTIVITYNET, subset="validation", unknown_labels="error"),
        DetectionProtocol("actionformer", THUMOS, shortest=DUPLICATE_SECONDS, merge_duplicates=True),
        DetectionProtocol(
            "opentad", THUMOS, shortest=np.nextafter(0, 1), merge_duplicates=True, undefined_matches=False
        ),
        DetectionProtocol("epic", EPIC),
        DetectionProtocol("delu", WEAK_THUMOS, subset="test", snippet=(25.0, 16.0), shortest_prediction=2.0),
    )
}
"""ActivityNet's official evaluator (without its list of blocked videos), ActionFormer's, OpenTAD's, C2's and DELU's.

DELU counts in whole snippets of 16/25 s: the same arithmetic in seconds loses detections that lie on a threshold.

ActionFormer's re-numbering of labels can take a class that has no ground truth for another one; here such predictions
are ignored.
"""


def snippets(times: np.ndarray, protocol: DetectionProtocol) -> np.ndarray:
    """Times in seconds as whole snippets of ``protocol``, halves to the even one; without snippets as they are."""
    if protocol.snippet is None:
        return times
    fps, frames = protocol.snippet
    return np.round(times * fps / frames)


def in_snippets(segments: Segments, protocol: DetectionProtocol) -> Segments:
    """The segments with their times as `snippets` gives them."""
    return replace(segments, times=snippets(segments.times, protocol))


def clean_truth(truth: Segments, protocol: DetectionProtocol) -> Segments:
    """The ground truth that counts under ``protocol``, in its snippets if it has any; of duplicates the first stays.

    Takes seconds. Raises `DataError` where nothing is left.
    """
    with np.errstate(invalid="ignore"):
        keep = truth.times[:, 1] - truth.times[:, 0] >= protocol.shortest
    if protocol.merge_duplicates:
        kept: dict[tuple[str, str], list[int]] = {}
        for index in np.flatnonzero(keep).tolist():
            group = kept.setdefault((truth.videos[index], truth.labels[index]), [])
            apart = np.abs(truth.times[group] - truth.times[index]) > DUPLICATE_SECONDS
            if not apart.any(axis=1).all():
                keep[index] = False
            else:
                group.append(index)
    if not keep.any():
        raise DataError(f"none of {len(truth)} ground truths has a length that protocol {protocol.name} counts")
    return in_snippets(truth.where(keep), protocol)


def clean_predictions(
    predictions: Segments, protocol: DetectionProtocol, ambiguous: Intervals | None = None
) -> tuple[Segments, int, int]:
    """The predictions that count under ``protocol``, and how many were too short and how many ambiguous.

    Takes seconds. Those that share time, or a whole snippet, with an ``ambiguous`` interval of their video go.
    """
    counted = in_snippets(predictions, protocol)
    with np.errstate(invalid="ignore"):
        long = counted.times[:, 1] - counted.times[:, 0] >= protocol.shortest_prediction
    short, counted = int(np.sum(~long)), counted.where(long)
    if ambiguous is None:
        return counted, short, 0
    spans = {video: [tuple(snippets(np.array(span), protocol)) for span in of] for video, of in ambiguous.items()}
    kept = outside(counted, spans)
    return counted.where(kept), short, int(np.sum(~kept))


def check_labels(truth: Segments, predictions: Segments, unknown_labels: str, where: str) -> int:
    """How many predictions have a label without ground truth, in the file ``where``.

    Raises `DataError` where ``unknown_labels`` is ``error`` and there are some, and where no label or no video of
    the predictions occurs in the ground truth.
    """
    if not len(predictions):
        return 0
    labels = set(truth.labels.tolist())
    known = np.array([label in labels for label in predictions.labels.tolist()])
    if not known.any():
        raise DataError(
            f"{where}: no predicted label occurs in the ground truth: predicted {_some(predictions.labels)}, "
            f"annotated {_some(truth.labels)}; write labels as the ground truth does"
        )
    if set(truth.videos.tolist()).isdisjoint(predictions.videos.tolist()):
        raise DataError(
            f"{where}: no predicted video occurs in the ground truth: predicted {_some(predictions.videos)}, annotated "
            f"{_some(truth.videos)}; check the subset and prefixes such as v_"
        )
    if unknown_labels == "error" and not known.all():
        raise DataError(
            f"{where}: {np.sum(~known)} predictions have labels without ground truth: "
            f"{_some(predictions.labels[~known])}; correct them or pass --unknown-labels ignore"
        )
    return int(np.sum(~known))


def _some(values: np.ndarray) -> str:
    names = sorted(set(values.tolist()))
    return ", ".join(repr(name) for name in names[:3]) + (", …" if len(names) > 3 else "")
