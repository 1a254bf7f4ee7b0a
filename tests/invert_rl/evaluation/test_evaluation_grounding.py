"""Grounding metrics and counts against plain loops and hand-made cases."""

from __future__ import annotations

import random
import time

import pytest

from data_prep.rows import Row
from invert_rl.evaluation.predictions import Prediction
from invert_rl.evaluation.scores.grounding import best_ious, grounding_metrics, ranked_ious
from invert_rl.evaluation.scores.qvhighlights import average_precision
from invert_rl.evaluation.scoring import counts_of, metrics_of, moments_of, per_window_metrics, score_answers
from rewards.iou import interval_iou
from rewards.pipelines import load_pipeline


def row(name: str, *windows: tuple[float, float], duration: float = 100.0, **meta: object) -> Row:
    return Row(name, f"{name}.mp4", duration, "a person opens the door", windows, meta=meta)


def random_case(seed: int, count: int) -> tuple[list[list[tuple[float, float]]], list[Row]]:
    rng = random.Random(seed)

    def window() -> tuple[float, float]:
        start = rng.choice([rng.uniform(0, 90), float(rng.randrange(90))])
        return start, start + rng.choice([rng.uniform(0.1, 10), float(rng.randrange(1, 10))])

    rows = [row(str(n), *(window() for _ in range(rng.randint(1, 3)))) for n in range(count)]
    predicted = [
        [rng.choice([window(), window()[::-1], (5.0, 5.0), rows[n].windows[0]]) for _ in range(rng.randint(0, 7))]
        for n in range(count)
    ]
    return predicted, rows


def test_same_as_a_loop_over_the_reward() -> None:
    predicted, rows = random_case(0, 500)
    ious = ranked_ious(predicted, rows)
    assert ious.shape == (500, 5)
    for n, windows in enumerate(predicted):
        loop = [max(interval_iou(window, truth) for truth in rows[n].windows) for window in windows[:5]]
        assert ious[n].tolist() == pytest.approx(loop + [0.0] * (5 - len(loop)))
    metrics = grounding_metrics(predicted, rows)
    best = [max([0.0, *ious[n]]) for n in range(500)]
    assert metrics["R5@0.5"] == pytest.approx(100 * sum(iou >= 0.5 for iou in best) / 500)
    assert metrics["mIoU"] == pytest.approx(100 * sum(best_ious(predicted, rows)) / 500)


def test_threshold_hit_counts_unless_strict() -> None:
    rows = [row("a", (0.0, 10.0))]
    assert grounding_metrics([[(0.0, 5.0)]], rows)["R1@0.5"] == 100
    assert grounding_metrics([[(0.0, 5.0)]], rows, strict=True)["R1@0.5"] == 0


def test_every_row_counts_and_is_counted() -> None:
    names = ["ok", "gone", "novideo", "unread", "swapped", "empty", "outside", "ranked"]
    rows = [row(name, (10.0, 20.0)) for name in names]
    predictions = [
        Prediction("ok", "tvg", [(10.0, 20.0)]),
        Prediction("novideo", "tvg", status="missing_video"),
        Prediction("unread", "tvg", status="unparsable", text="?"),
        Prediction("swapped", "tvg", [(20.0, 10.0)]),
        Prediction("empty", "tvg", [(15.0, 15.0)]),
        Prediction("outside", "tvg", [(10.0, 120.0)]),
        Prediction("ranked", "tvg", []),
    ]
    metrics = metrics_of(predictions, rows)
    assert metrics["n"] == 8
    assert metrics["R1@0.5"] == pytest.approx(100 / 8)
    assert metrics["mIoU"] == pytest.approx(100 * (1 + 10 / 110) / 8)
    assert counts_of(predictions, rows)["tvg"] == {
        "rows": 8,
        "ok": 4,
        "missing": 1,
        "missing_video": 1,
        "too_long": 0,
        "unparsable": 2,
        "swapped": 1,
        "empty": 1,
        "outside": 1,
    }


def test_unknown_status_keeps_its_name() -> None:
    assert counts_of([Prediction("a", "tvg", status="timeout")], [row("a", (1.0, 2.0))])["tvg"]["timeout"] == 1


def test_both_conventions_for_several_windows() -> None:
    rows = [row("a", (0.0, 10.0), (50.0, 60.0)), row("b", (0.0, 10.0))]
    predictions = [Prediction("a", "tvg", [(50.0, 60.0)]), Prediction("b", "tvg", [(0.0, 5.0)])]
    assert metrics_of(predictions, rows)["mIoU"] == pytest.approx(75)
    split = per_window_metrics(predictions, rows)
    assert (split["n"], split["mIoU"]) == (3, pytest.approx(50))
    moments = moments_of(predictions, rows)
    assert moments["full"]["MR-R1"]["0.5"] == 100.0
    assert moments["full"]["MR-mAP"]["0.5"] == 75.0  # half of a's windows found, all of b's
    assert moments["full"]["MR-mAP"]["0.55"] == 25.0


def test_average_precision_takes_each_window_once() -> None:
    truth = [(0.0, 10.0), (20.0, 30.0)]
    twice = average_precision([(0.0, 10.0), (0.0, 10.0), (20.0, 30.0)], [], truth)
    assert twice.tolist() == pytest.approx([0.5 + 0.5 * 2 / 3] * 10)
    by_score = average_precision([(50.0, 60.0), (0.0, 10.0)], [0.1, 0.9], truth[:1])
    assert by_score.tolist() == [1.0] * 10
    assert average_precision([], [], truth).tolist() == [0.0] * 10


def test_verb_accuracies_over_rows_with_verbs() -> None:
    rows = [
        row("a", (1.0, 2.0), verbs=["open"]),
        row("b", (1.0, 2.0), verbs=["open"]),
        row("c", (1.0, 2.0), (4.0, 5.0), verbs=["open"]),
        row("d", (1.0, 2.0), verbs=[]),
    ]
    predictions = [
        Prediction("a", "ar", text="<answer>opens</answer>"),
        Prediction("b", "ar", text="<answer>closes</answer>"),
        Prediction("c#0", "ar", text="<answer>opened</answer>"),
    ]
    score_answers(predictions, rows, options={"pipeline": load_pipeline()})
    assert [p.score for p in predictions] == [1.0, 0.0, 1.0]
    metrics = metrics_of(predictions, rows)
    assert metrics["AR"] == pytest.approx(50)  # a, b, c#0 and the missing c#1; d has no verb
    assert "mIoU" not in metrics
    assert counts_of(predictions, rows)["ar"]["missing"] == 1


def test_17505_rows_in_well_under_two_seconds() -> None:
    predicted, rows = random_case(1, 17505)
    predictions = [Prediction(r.id, "tvg", windows) for r, windows in zip(rows, predicted, strict=True)]
    began = time.process_time()
    metrics = metrics_of(predictions, rows)
    counts_of(predictions, rows)
    assert time.process_time() - began < 1.0
    assert metrics["n"] == 17505
