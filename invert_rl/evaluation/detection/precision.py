"""Mean average precision of temporal action localization, equal to the field's evaluators and without their loops.

Per class, predictions of all videos are taken by descending score; each claims the ground truth of its video that it
overlaps most among those not yet claimed, if their tIoU reaches the threshold, and is a false positive otherwise.
Groups of one class in one video do not touch each other, so all groups are matched at the same time, prediction by
prediction, at all thresholds. AP is the area under the monotone envelope of precision over recall (PASCAL VOC 2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from data_prep.errors import DataError

TIES = ("last", "first")
"""Which of equal scores comes first: the last in the file, as in the reference evaluators, or the first."""
BLOCK = 1 << 20
"""Pairs of prediction and ground truth looked at together, which bounds memory."""


@dataclass(frozen=True)
class Segments:
    """Labelled segments of many videos: ``videos`` and ``labels`` ``(N,)`` text, ``times`` ``(N, 2)`` in seconds.

    Text of dtype object is looked up fastest. ``scores`` ``(N,)`` are those of predictions, zeros for ground truth;
    the order is that of the file.
    """

    videos: np.ndarray
    labels: np.ndarray
    times: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.videos)

    def where(self, keep: np.ndarray) -> Segments:
        """The segments that ``keep`` ``(N,)`` (mask or indices) selects."""
        return Segments(self.videos[keep], self.labels[keep], self.times[keep], self.scores[keep])


@dataclass(frozen=True)
class DetectionResult:
    """AP and recall as fractions; C classes in alphabetical order, T thresholds, K values of k.

    ``ap`` is ``(C, T)``, ``recall`` ``(C, T, K)``: the share of ground truth that one of the k·n best predictions of
    its class in its video hits, n being the number of ground truths of that class in that video.
    """

    classes: list[str]
    ap: np.ndarray
    recall: np.ndarray

    @property
    def mean_ap(self) -> list[float]:
        """mAP at each threshold: the mean over the classes that occur in the ground truth."""
        return self.ap.mean(axis=0).tolist()

    @property
    def average_map(self) -> float:
        """Mean of `mean_ap` over the thresholds."""
        return float(np.mean(self.mean_ap))

    @property
    def mean_recall(self) -> list[list[float]]:
        """Recall ``(T, K)``, the mean over classes."""
        return self.recall.mean(axis=0).tolist()


def evaluate_detection(
    truth: Segments,
    predictions: Segments,
    thresholds: Sequence[float],
    top_k: Sequence[int] = (1, 5),
    ties: str = "last",
    undefined_matches: bool = False,
) -> DetectionResult:
    """AP of each class of ``truth`` at each tIoU threshold (tIoU >= threshold hits), and recall@kx.

    ``ties`` orders equal scores. ``undefined_matches`` makes a tIoU of 0/0 (both segments empty, or a reversed
    one of the same length) a match, as nan is in the ActivityNet, ActionFormer and EPIC evaluators; else it is 0.
    Predictions of classes without ground truth are ignored. Raises `DataError` without ground truth.
    """
    if not len(truth):
        raise DataError("no ground truth is left to score against; check the subset")
    if ties not in TIES:
        raise ValueError(f"ties must be one of {TIES}, not {ties!r}")
    classes = sorted(set(truth.labels.tolist()))
    class_ids = {label: index for index, label in enumerate(classes)}
    video_ids = {video: index for index, video in enumerate(set(truth.videos.tolist()))}
    truth_class, predicted_class = _ids(truth.labels, class_ids), _ids(predictions.labels, class_ids)
    if (predicted_class < 0).any():
        predictions, predicted_class = predictions.where(predicted_class >= 0), predicted_class[predicted_class >= 0]
    truth_group = truth_class * (len(video_ids) + 1) + _ids(truth.videos, video_ids)
    # A video without ground truth is -1, the last place of the class before: no ground truth has that place.
    predicted_group = predicted_class * (len(video_ids) + 1) + _ids(predictions.videos, video_ids)
    by_score = score_order(predictions.scores, ties)
    narrow = np.min_scalar_type(len(classes))  # NumPy sorts integers of 8 and 16 bits in linear time
    by_score = by_score[np.argsort(predicted_class[by_score].astype(narrow), kind="stable")]  # class, then score
    by_group = np.argsort(truth_group, kind="stable")
    matches = _Matches(
        truth.times[by_group],
        truth_group[by_group],
        predictions.times[by_score],
        predicted_group[by_score],
        np.asarray(thresholds, dtype=float),
        undefined_matches,
    )
    hits = matches.greedy()
    found = matches.found(top_k)
    positives = np.bincount(truth_class, minlength=len(classes))
    first = np.r_[0, np.cumsum(np.bincount(predicted_class, minlength=len(classes)))]
    ap = np.array([average_precision(hits[:, a:b], n) for a, b, n in zip(first, first[1:], positives, strict=False)])
    hit_of_class = np.zeros((len(classes), *found.shape[1:]))
    np.add.at(hit_of_class, truth_class[by_group], found)
    return DetectionResult(classes, ap, hit_of_class / positives[:, None, None])


def score_order(scores: np.ndarray, ties: str = "last") -> np.ndarray:
    """Indices by descending score ``(N,)``; of equal scores the last (or the first) of the file first."""
    if ties == "last":
        return np.argsort(scores, kind="stable")[::-1]
    return np.argsort(-scores, kind="stable")


def average_precision(hits: np.ndarray, positives: int) -> np.ndarray:
    """Interpolated AP ``(T,)`` of ``hits`` ``(T, N)``, true positives by descending score, of ``positives`` truths.

    The area under the monotone envelope of precision over recall (PASCAL VOC 2011 and later); 0 without predictions.
    """
    if not hits.shape[1]:
        return np.zeros(len(hits))
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return (envelope * hits).sum(axis=1) / positives


def tiou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Temporal IoU of segments ``(…, 2)`` with segments of the same shape, ``(…,)``; 0/0 is nan."""
    start = np.maximum(first[..., 0], second[..., 0])
    end = np.minimum(first[..., 1], second[..., 1])
    intersection = np.maximum(end - start, 0.0)
    union = (second[..., 1] - second[..., 0]) + (first[..., 1] - first[..., 0]) - intersection
    with np.errstate(divide="ignore", invalid="ignore"):
        return intersection / union


class _Matches:
    """Pairs of a prediction with the ground truths of its group (one class in one video).

    Truths ``(M, 2)`` are sorted by group, predictions ``(N, 2)`` by descending score within their group.
    """

    def __init__(
        self,
        truth: np.ndarray,
        truth_group: np.ndarray,
        predicted: np.ndarray,
        predicted_group: np.ndarray,
        thresholds: np.ndarray,
        undefined_matches: bool,
    ) -> None:
        self.truth, self.predicted, self.thresholds = truth, predicted, thresholds
        groups, first, count = np.unique(truth_group, return_index=True, return_counts=True)
        place = np.searchsorted(groups[:-1], predicted_group)
        self.first = first[place]
        self.count = np.where(groups[place] == predicted_group, count[place], 0)
        least = thresholds.min(initial=np.inf)
        parts = [self._pairs(block, least, undefined_matches) for block in self._blocks()]
        self.prediction = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0, dtype=int)
        self.target = np.concatenate([part[1] for part in parts]) if parts else np.zeros(0, dtype=int)
        self.overlap = np.concatenate([part[2] for part in parts]) if parts else np.zeros(0)

    def greedy(self) -> np.ndarray:
        """Which predictions are true positives at each threshold, ``(T, N)``."""
        hits = np.zeros((len(self.thresholds), len(self.predicted)), dtype=bool)
        free = np.ones((len(self.thresholds), len(self.truth)), dtype=bool)
        # Predictions without a pair cannot hit: ranks are counted among those that have one.
        new = np.diff(self.prediction, prepend=-1) > 0
        turn = _rank_in_group(self.first[self.prediction[new]])[np.cumsum(new) - 1]
        order = np.lexsort((-self.target, -self.overlap, turn * len(self.predicted) + self.prediction))
        prediction, target, overlap = self.prediction[order], self.target[order], self.overlap[order]
        ends = np.searchsorted(turn[order], np.arange(turn.max(initial=-1) + 2))
        level = self.thresholds[:, None]
        for start, end in zip(ends, ends[1:], strict=False):
            # One prediction of every group: its best free truth is the first eligible pair, and no two share a truth.
            owner, targets = prediction[start:end], target[start:end]
            eligible = (overlap[start:end] >= level) & free[:, targets]
            starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
            place = np.where(eligible, np.arange(end - start), end - start)
            chosen = np.minimum.reduceat(place, starts, axis=1)
            row, column = np.nonzero(chosen < end - start)
            pair = chosen[row, column]
            hits[row, owner[pair]] = True
            free[row, targets[pair]] = False
        return hits

    def found(self, top_k: Sequence[int]) -> np.ndarray:
        """Whether each truth is hit by one of its group's k·n best predictions, ``(M, T, K)``; nothing is claimed."""
        best = np.full((len(self.truth), len(top_k)), -1.0)
        finite = np.isfinite(self.overlap)
        some = np.flatnonzero(self.count)
        rank = np.zeros(len(self.count), dtype=int)
        rank[some] = _rank_in_group(self.first[some])
        for place, k in enumerate(top_k):
            near = finite & (rank[self.prediction] < k * self.count[self.prediction])
            np.maximum.at(best[:, place], self.target[near], self.overlap[near])
        return best[:, None, :] >= self.thresholds[:, None]

    def _blocks(self) -> list[np.ndarray]:
        """Predictions with ground truth in their group, in blocks of about `BLOCK` pairs."""
        some = np.flatnonzero(self.count)
        cuts = np.flatnonzero(np.diff(np.cumsum(self.count[some]) // BLOCK)) + 1
        return np.split(some, cuts) if len(some) else []

    def _pairs(self, block: np.ndarray, least: float, undefined: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prediction, truth and tIoU of the pairs of a block that reach the lowest threshold; undefined is inf."""
        count = self.count[block]
        prediction = np.repeat(block, count)
        within = np.arange(len(prediction)) - np.repeat(np.cumsum(count) - count, count)
        target = self.first[prediction] + within
        overlap = tiou(self.predicted[prediction], self.truth[target])
        overlap = np.where(np.isnan(overlap), np.inf if undefined else 0.0, overlap)
        keep = overlap >= least
        return prediction[keep], target[keep], overlap[keep]


def _ids(names: np.ndarray, ids: dict[str, int]) -> np.ndarray:
    """The id of each name ``(N,)``, -1 where it has none; sorting half a million texts takes many times longer."""
    return np.fromiter(map(ids.get, names.tolist(), repeat(-1)), dtype=int, count=len(names))


def _rank_in_group(groups: np.ndarray) -> np.ndarray:
    """How many earlier entries of ``groups`` ``(N,)``, none negative, are equal to each entry, ``(N,)``."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    lengths = np.diff(starts, append=len(groups))
    rank = np.empty(len(groups), dtype=int)
    rank[order] = np.arange(len(groups)) - np.repeat(starts, lengths)
    return rank
