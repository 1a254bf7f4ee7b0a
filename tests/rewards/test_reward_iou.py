"""Span rewards against hand values, published evaluators' values and brute force."""

import itertools
import json
import math
import random
from pathlib import Path

import pytest

from rewards.errors import RewardError
from rewards.iou import (
    MAX_SPANS,
    giou_reward,
    interval_giou,
    interval_iou,
    iou_reward,
    matched_iou,
    multi_window_iou_reward,
    timestamp_iou,
    timestamp_iou_reward,
)

GOLDEN = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "golden" / "tvg_iou_micro.json"


def answer(text):
    return f"<think>x</think> <answer>{text}</answer>"


def test_iou_agrees_with_four_published_evaluators():
    if not GOLDEN.exists():
        pytest.skip(f"{GOLDEN} is not there")
    cases = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert len(cases) >= 12
    for case in cases:
        for evaluator, value in case["iou"].items():
            assert interval_iou(case["pred"], case["gt"]) == pytest.approx(value, abs=1e-12), (
                case["name"],
                evaluator,
            )


@pytest.mark.parametrize(
    ("a", "b", "iou", "giou"),
    [
        ((0, 10), (0, 10), 1.0, 1.0),
        ((0, 10), (5, 15), 1 / 3, 1 / 3),
        ((0, 10), (10, 20), 0.0, 0.0),
        ((0, 1), (3, 4), 0.0, -0.5),
        ((0, 1), (0, 4), 0.25, 0.25),
        ((0, 1), (98, 99), 0.0, -97 / 99),
        ((4, 4), (4, 4), 0.0, -1.0),
        ((5, 2), (2, 5), 0.0, -1.0),
        ((math.nan, 2), (0, 5), 0.0, -1.0),
        ((0, math.inf), (0, 5), 0.0, -1.0),
    ],
)
def test_hand_values(a, b, iou, giou):
    assert interval_iou(a, b) == pytest.approx(iou, abs=1e-12)
    assert interval_iou(b, a) == pytest.approx(iou, abs=1e-12)
    assert interval_giou(a, b) == pytest.approx(giou, abs=1e-12)


def test_timestamp_iou_by_hand():
    # IoU 1/3, start and end both 5 s off in 20 s: 1/3 * 0.75 * 0.75
    assert timestamp_iou((0, 10), (5, 15), 20) == pytest.approx(0.1875)
    assert timestamp_iou((5, 15), (5, 15), 20) == 1.0
    assert timestamp_iou((0, 500), (0, 10), 20) == 0.0  # an end far outside the video
    assert timestamp_iou((8, 4), (4, 8), 20) == 0.0


def test_matching_is_the_best_one_to_one_assignment():
    rng = random.Random(3)
    for _ in range(200):
        predicted, truth = (
            [(s, s + rng.uniform(0.5, 9)) for s in (rng.uniform(0, 20) for _ in range(rng.randrange(1, 5)))]
            for _ in range(2)
        )
        small, large = sorted((predicted, truth), key=len)
        best = max(
            sum(interval_iou(a, b) for a, b in zip(small, chosen, strict=True))
            for chosen in itertools.permutations(large, len(small))
        )
        assert matched_iou(predicted, truth) == pytest.approx(best / len(large))
    assert matched_iou([], [(0, 1)]) == 0.0


def test_iou_reward_scores_only_grounding_rows():
    completions = [answer("0 to 10"), answer("0 to 5"), answer("open"), "0 to 10", answer("10 to 0")]
    windows = [[[0, 10]]] * 5
    scores = iou_reward(completions, task=["tvg", "tvg", "tvg", "vc", "tvg"], windows=windows, prompts=["p"] * 5)
    assert scores == [1.0, 0.5, 0.0, None, 0.0]


def test_the_best_of_several_windows_counts_for_one_span():
    assert iou_reward([answer("20 to 30")], task=["tvg"], windows=[[[0, 10], [20, 30]]]) == [1.0]


def test_multi_window_reward_counts_missing_and_superfluous_spans():
    windows = [[[0, 10], [20, 30]]]

    def score(text):
        return multi_window_iou_reward([answer(text)], task=["tvg"], windows=windows)[0]

    assert score("20 to 30, 0 to 10") == 1.0
    assert score("0 to 10") == 0.5
    assert score("0 to 10, 20 to 30, 40 to 50, 60 to 70") == 0.5
    assert score("0 to 10, 0 to 10") == 0.5
    assert score(", ".join(["0 to 10"] * (MAX_SPANS + 1))) == 0.0
    assert score("none") == 0.0
    assert multi_window_iou_reward(["x"], task=["ar"], windows=windows) == [None]


def test_variants_as_rewards():
    completions = [answer("0 to 10"), answer("nothing"), answer("0 to 10")]
    columns = {"task": ["tvg", "tvg", "vd"], "windows": [[[5, 15]]] * 3, "duration": [20.0] * 3}
    assert timestamp_iou_reward(completions, **columns) == [pytest.approx(0.1875), 0.0, None]
    assert giou_reward(completions, **columns) == [pytest.approx(1 / 3), -1.0, None]


def test_generalized_iou_pays_nothing_for_a_span_that_misses_or_covers_everything():
    columns = {"task": ["tvg"] * 3, "windows": [[[10, 20]]] * 3}
    near, far, everything = giou_reward([answer("22 to 30"), answer("80 to 90"), answer("0 to 1000")], **columns)
    assert far < near < 0
    assert everything == pytest.approx(0.01)


def test_a_video_without_length_is_an_error():
    with pytest.raises(RewardError, match="row 0.*duration"):
        timestamp_iou_reward([answer("0 to 1")], task=["tvg"], windows=[[[0, 1]]], duration=[0.0])
