"""Vectorised matching against the evaluators' algorithm as a plain loop, hand-made cases, and laws."""

from __future__ import annotations

import random

import numpy as np
import pytest

from data_prep.errors import DataError
from invert_rl.evaluation.detection.precision import Segments, average_precision, evaluate_detection, score_order, tiou

THRESHOLDS = [0.3, 0.5, 0.7, 0.9]


def segments(rows: list[tuple]) -> Segments:
    """``(video, label, start, end[, score])`` of each segment."""
    return Segments(
        np.array([row[0] for row in rows], dtype=str),
        np.array([row[1] for row in rows], dtype=str),
        np.array([row[2:4] for row in rows], dtype=float).reshape(-1, 2),
        np.array([row[4] if len(row) > 4 else 0.0 for row in rows], dtype=float),
    )


def overlap(a: tuple, b: tuple) -> float:
    shared = max(0.0, min(a[3], b[3]) - max(a[2], b[2]))
    union = (b[3] - b[2]) + (a[3] - a[2]) - shared
    return shared / union if union else float("inf")  # 0/0 counts as a match


def loop(truth: list[tuple], predictions: list[tuple], label: str, threshold: float) -> float:
    """AP of one class at one threshold, one prediction after the other."""
    wanted = [row for row in truth if row[1] == label]
    ranked = sorted((row for row in reversed(predictions) if row[1] == label), key=lambda row: -row[4])
    claimed: set[int] = set()
    precision, recall, hits = [], [], 0
    for place, row in enumerate(ranked, start=1):
        near = [(overlap(row, other), index) for index, other in enumerate(wanted) if other[0] == row[0]]
        for value, index in sorted(near, reverse=True):
            if value < threshold:
                break
            if index not in claimed:
                claimed.add(index)
                hits += 1
                break
        precision.append(hits / place)
        recall.append(hits / len(wanted))
    area, before = 0.0, 0.0
    for place, now in enumerate(recall):
        area += (now - before) * max(precision[place:])
        before = now
    return area


def random_case(seed: int) -> tuple[list[tuple], list[tuple]]:
    """A few videos and classes on a coarse grid, so that ties, duplicates and exact thresholds occur."""
    rng = random.Random(seed)

    def segment() -> tuple[float, float]:
        start = rng.choice([float(rng.randrange(20)), rng.uniform(0, 20)])
        return start, start + rng.choice([0.0, 1.0, 2.0, 5.0, rng.uniform(0, 8)])

    videos, labels = ["a", "b", "c", "ghost"], ["x", "y", "z", "unknown"]
    truth = [(rng.choice(videos[:3]), rng.choice(labels[:3]), *segment()) for _ in range(rng.randint(1, 25))]
    near = [(row[0], row[1], row[2] + rng.choice([0, 0, 0.5]), row[3], rng.randrange(5) / 4) for row in truth]
    far = [(rng.choice(videos), rng.choice(labels), *segment(), rng.random()) for _ in range(rng.randint(0, 40))]
    predictions = near[: rng.randint(0, len(near))] + far
    rng.shuffle(predictions)
    return truth, predictions


@pytest.mark.parametrize("seed", range(200))
def test_equals_the_loop(seed: int) -> None:
    truth, predictions = random_case(seed)
    result = evaluate_detection(segments(truth), segments(predictions), THRESHOLDS, undefined_matches=True)
    assert result.classes == sorted({row[1] for row in truth})
    for label, values in zip(result.classes, result.ap, strict=True):
        assert values == pytest.approx([loop(truth, predictions, label, t) for t in THRESHOLDS], abs=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_recall_equals_a_loop(seed: int) -> None:
    truth, predictions = random_case(seed)
    result = evaluate_detection(segments(truth), segments(predictions), THRESHOLDS, (1, 2))
    for label, values in zip(result.classes, result.recall, strict=True):
        wanted = [row for row in truth if row[1] == label]
        for place, k in enumerate((1, 2)):
            for threshold, value in zip(THRESHOLDS, values[:, place], strict=True):
                found = 0
                for row in wanted:
                    count = sum(other[0] == row[0] for other in wanted)
                    ranked = [p for p in reversed(predictions) if p[:2] == row[:2]]
                    ranked = sorted(ranked, key=lambda p: -p[4])[: k * count]
                    found += any(threshold <= overlap(p, row) < np.inf for p in ranked)
                assert value == pytest.approx(found / len(wanted))


def test_order_of_equal_scores_is_the_rule_that_is_asked_for() -> None:
    truth = segments([("a", "x", 0, 10)])
    predictions = segments([("a", "x", 0, 10, 0.5), ("a", "x", 20, 30, 0.5)])
    assert evaluate_detection(truth, predictions, [0.5], ties="last").ap.item() == 0.5
    assert evaluate_detection(truth, predictions, [0.5], ties="first").ap.item() == 1.0
    assert score_order(np.array([1.0, 2.0, 2.0, 0.0]), "first").tolist() == [1, 2, 0, 3]
    assert score_order(np.array([1.0, 2.0, 2.0, 0.0]), "last").tolist() == [2, 1, 0, 3]


def test_a_second_prediction_claims_the_next_best_truth() -> None:
    truth = segments([("a", "x", 0, 10), ("a", "x", 2, 12)])
    predictions = segments([("a", "x", 0, 10, 0.9), ("a", "x", 0, 10, 0.8)])
    assert evaluate_detection(truth, predictions, [0.6]).ap.item() == 1.0
    assert evaluate_detection(truth, predictions, [0.7]).ap.item() == 0.5


def test_undefined_overlap_is_a_match_only_where_asked_for() -> None:
    truth, predictions = segments([("a", "x", 5, 5)]), segments([("a", "x", 5, 5, 1.0)])
    assert evaluate_detection(truth, predictions, [0.5], undefined_matches=True).ap.item() == 1.0
    assert evaluate_detection(truth, predictions, [0.5]).ap.item() == 0.0


def test_average_precision_by_hand() -> None:
    hits = np.array([[True, False, True, False]])
    assert average_precision(hits, 4) == pytest.approx([0.25 * 1 + 0.25 * 2 / 3])
    assert average_precision(np.zeros((2, 0), dtype=bool), 3).tolist() == [0, 0]


def test_hits_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, predictions = random_case(7)
    whole = evaluate_detection(segments(truth), segments(predictions), THRESHOLDS)
    monkeypatch.setattr("invert_rl.evaluation.detection.precision.BLOCK", 2)
    assert np.array_equal(evaluate_detection(segments(truth), segments(predictions), THRESHOLDS).ap, whole.ap)


def test_no_ground_truth_is_an_error_and_no_prediction_is_zero() -> None:
    some = segments([("a", "x", 0, 1, 0.5)])
    with pytest.raises(DataError, match="no ground truth"):
        evaluate_detection(segments([]), some, [0.5])
    assert evaluate_detection(some, segments([]), [0.5]).average_map == 0
    assert np.isnan(tiou(np.zeros(2), np.zeros(2)))
