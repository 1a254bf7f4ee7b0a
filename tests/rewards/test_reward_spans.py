"""Rewards of several spans: published numbers, hand values, and answers that try to be paid for many spans."""

import json
import math
import random
from pathlib import Path

import pytest

from rewards import get_reward
from rewards.errors import RewardError
from rewards.spans import interval_iou, set_iou, timestamp_iou, wasserstein

GOLDEN = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "golden"
SET_REWARDS = ["set_iou", "wasserstein", "multi_window_iou"]


def golden(name):
    path = GOLDEN / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return json.loads(path.read_text(encoding="utf-8"))


def floats(spans):
    return [tuple(float(end) for end in span) for span in spans]


def test_set_rewards_agree_with_those_of_timelens2():
    cases = golden("timelens2_rewards.json")["span_cases"]
    assert len(cases) > 100
    for case in cases:
        pred, truth, expected = floats(case["pred"]), floats(case["gt"]), case["rewards"]
        assert set_iou(pred, truth) == pytest.approx(expected["tiou"], abs=1e-9), case["name"]
        for name, beta in {"twass1": 1.0, "twass": 3.0, "twass0.5": 0.5}.items():
            assert wasserstein(pred, truth, beta) == pytest.approx(expected[name], abs=1e-9), (case["name"], name)


def test_timestamp_iou_agrees_with_time_r1():
    """Where theirs is negative, or the product of two negative factors, ours is 0."""
    cases = [case for case in golden("span_rewards.json")["span_cases"] if "time_r1" in case["rewards"]]
    compared = 0
    for case in cases:
        theirs = case["rewards"]["time_r1"].get("iou_v2")
        if case["pred"] is None or not isinstance(theirs, float):
            continue
        factors = [1 - abs(a - b) / case["duration"] for a, b in zip(case["pred"], case["gt"], strict=True)]
        expected = theirs if min(factors) >= 0 else 0.0
        assert timestamp_iou(case["pred"], case["gt"], case["duration"]) == pytest.approx(expected, abs=1e-12)
        compared += expected > 0
    assert compared > 20


def quantile_distance(a, b, steps=20_000):
    """Wasserstein-1 by its other formula: the mean distance of equal quantiles."""

    def quantiles(spans):
        length = sum(end - start for start, end in spans)
        remaining, before = iter(sorted(spans)), 0.0
        start, end = next(remaining)
        for step in range(steps):
            target = length * (step + 0.5) / steps
            while target > before + end - start:
                before += end - start
                start, end = next(remaining)
            yield start + target - before

    return sum(abs(x - y) for x, y in zip(quantiles(a), quantiles(b), strict=True)) / steps


def test_wasserstein_is_the_mean_distance_of_quantiles():
    rng = random.Random(5)
    for _ in range(20):
        pred, truth = [], []
        for spans in (pred, truth):
            borders = sorted(rng.uniform(0, 60) for _ in range(2 * rng.randrange(1, 4)))
            spans += zip(borders[::2], borders[1::2], strict=True)
        length = sum(end - start for start, end in truth)
        expected = math.exp(-quantile_distance(pred, truth) / length)
        assert wasserstein(pred, truth) == pytest.approx(expected, abs=2e-3)


def test_wasserstein_by_hand():
    assert wasserstein([(5, 7)], [(1, 3)]) == pytest.approx(math.exp(-4 / 2))  # moved by 4 s, 2 s long
    assert wasserstein([(0, 5)], [(0, 10)]) == pytest.approx(math.exp(-2.5 / 10))
    assert wasserstein([(0, 5)], [(0, 10)], beta=2) == pytest.approx(math.exp(-2 * 2.5 / 10))
    for beta in (0, -1, math.nan, math.inf):
        with pytest.raises(RewardError, match="beta"):
            wasserstein([(0, 5)], [(0, 10)], beta)


def test_one_span_in_each_set_is_plain_iou():
    rng = random.Random(6)
    for _ in range(200):
        a, b = ((start, start + rng.uniform(0.1, 9)) for start in (rng.uniform(0, 12), rng.uniform(0, 12)))
        assert set_iou([a], [b]) == pytest.approx(interval_iou(a, b))


@pytest.mark.parametrize("name", SET_REWARDS)
def test_every_window_is_read_and_every_span(name):
    def score(answer, windows):
        return get_reward(name)([answer], windows=[windows])[0]

    two = [[10.0, 20.0], [100.0, 120.0]]
    assert score("[[10, 20], [100, 120]]", two) == score("100 to 120, 10 to 20", two) == 1.0
    one = score("[[100, 120]]", two)
    assert 0.3 < one < 0.75
    assert score("[[10, 20], [100, 120]]", [[100.0, 120.0]]) < 1.0
    assert score("[[20, 10], [100, 120]]", two) < 1.0
    assert score("[[10, 20], [100]]", two) == score("somewhere", two) == 0.0


@pytest.mark.parametrize("name", SET_REWARDS)
def test_naming_more_spans_of_the_same_seconds_does_not_pay(name):
    def score(spans, windows=((10.0, 20.0),)):
        return get_reward(name)([json.dumps(spans)], windows=[windows])[0]

    for farm in (
        [[0, 30]] * 50,  # one wrong span again and again
        [[start, start + 10] for start in range(0, 50)],  # every span of the right length
        [[start, 60] for start in range(60)],  # every start
        [[start + 0.01, start + 0.02] for start in range(60)],  # dust over the whole video
    ):
        assert score(farm) <= max(score([[0, 60]]), score([[0, 30]])) + 0.05
    assert score([[10, 20]] * 100) <= score([[10, 20]])
    assert score([[10, 20]] * 101) == 0.0


def test_a_hundred_thousand_spans_end():
    """In under a second; an implementation of quadratic time would need an hour."""
    spans = [(float(start), start + 0.7) for start in range(100_000)]
    assert set_iou(spans, spans[::-1]) == pytest.approx(1.0)
    assert 0.0 < wasserstein(spans, spans[::2]) < 1.0
    text = json.dumps([[start, start + 0.5] for start in range(20_000)])
    for name in SET_REWARDS:
        assert get_reward(name)([text] * 4, windows=[[[1.0, 2.0]]] * 4) == [0.0] * 4


def test_an_answer_that_cannot_be_read_is_fined():
    texts = ["[[1, 2]]", "<answer>1 to 2</answer>", "[]", "none", "maybe", "", "[[1, 2], [3]]", "1 to", "in 1999"]
    assert get_reward("parse_penalty")(texts) == [0.0] * 4 + [-1.0] * 5


def test_odd_spans_are_bounded():
    odd = [(0.0, 5e-324), (0.0, 1e308), (-1e308, 1e308), (3.0, 3.0), (5.0, 2.0), (math.nan, 1.0), (0.0, math.inf)]
    for a in odd:
        for b in odd:
            for score in (set_iou, wasserstein):
                assert 0.0 <= score([a], [b]) <= 1.0, (score, a, b)
                assert 0.0 <= score([a, b], [b, a]) <= 1.0, (score, a, b)


@pytest.mark.parametrize(("end", "value"), [(10.0, 0.801823), (8.0, 0.8), (5.0, 0.596390), (0.0, 0.086763)])
def test_soft_iou_is_nearly_flat_above_its_threshold(end, value):
    """By hand: 0.8 + ln(1.2) / 100; 0.8 - (e^0.3 - 1) / (e - 1); 0.8 - (e^0.8 - 1) / (e - 1)."""
    (found,) = get_reward("soft_iou")([f"<answer>0 to {end}</answer>"], windows=[[(0.0, 10.0)]])
    assert found == pytest.approx(value, abs=1e-6)
