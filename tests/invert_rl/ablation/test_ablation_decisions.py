"""Decisions on hypotheses: p values are scipy's, Holm's rule is that of worked values, and each verdict is reached."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from data_prep.errors import DataError
from invert_rl.ablation.config import AblationConfig
from invert_rl.ablation.decisions import (
    Hypothesis,
    decide,
    decisions_markdown,
    holm,
    paired_differences,
    read_hypotheses,
    two_sided,
    write_decisions,
)
from invert_rl.ablation.recipes import GROUNDING
from invert_rl.ablation.table import Result

SEEDS = range(1, 9)


def runs(name: str, values: list[float], metric: str = "mIoU", start: float = 50.0) -> list[Result]:
    return [
        Result(name, seed, {metric: start}, {metric: value}, 1.0, {})
        for seed, value in zip(SEEDS, values, strict=False)
    ]


def around(mean: float, spread: float, seed: int) -> list[float]:
    noise = np.random.default_rng(seed).normal(size=8)
    return list(mean + spread * (noise - noise.mean()))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_p_is_that_of_scipys_paired_test(seed):
    one, other = around(51.0, 1.0, seed), around(50.0, 1.0, seed + 10)
    expected = stats.ttest_rel(one, other).pvalue
    assert two_sided([a - b for a, b in zip(one, other, strict=True)]) == pytest.approx(expected, rel=1e-9)


def test_differences_without_spread_have_a_p_too():
    assert two_sided([0.0, 0.0, 0.0]) == 1.0 and two_sided([0.5, 0.5]) == 0.0


def test_holm_gives_the_worked_values():
    # 0.01 * 4; 0.02 * 3; 0.03 * 2 and 0.04 * 1, which may not fall below those before
    assert holm([0.02, 0.01, 0.04, 0.03]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0] and holm([]) == []


def test_holm_rejects_what_the_step_down_rule_rejects():
    """The definition (Holm 1979): go on while the k-th smallest of n is at most level / (n - k + 1)."""
    numbers = np.random.default_rng(3)
    for _ in range(50):
        p = list(numbers.random(7) ** 4)
        rejected = set()
        for k, place in enumerate(np.argsort(p), start=1):
            if p[place] > 0.05 / (7 - k + 1):
                break
            rejected.add(int(place))
        assert {place for place, value in enumerate(holm(p)) if value <= 0.05} == rejected


def test_each_verdict_is_reached():
    results = [
        *runs("base", around(50.0, 0.1, 0)),
        *runs("better", around(53.0, 0.1, 1)),
        *runs("same", around(50.0, 2.0, 2)),
        *runs("few", around(60.0, 0.1, 3)[:7]),
    ]
    hypotheses = [
        Hypothesis("better helps", "better", "base", "mIoU", "higher"),
        Hypothesis("better hurts", "better", "base", "mIoU", "lower"),
        Hypothesis("same helps", "same", "base", "mIoU", "higher"),
        Hypothesis("one pair is missing", "few", "base", "mIoU", "higher"),
        Hypothesis("not run", "absent", "base", "mIoU", "higher"),
        Hypothesis("moved from the start", "better", "start", "mIoU", "higher"),
    ]
    decisions = decide(hypotheses, results, pairs=8)
    assert [one.verdict for one in decisions] == [
        "supported",
        "contradicted",
        "undecided",
        "undecided",
        "undecided",
        "supported",
    ]
    assert decisions[3].difference.n == 7 and decisions[3].adjusted < 0.05  # the rule asks for eight
    assert decisions[4].difference is None and decisions[4].p is None
    assert decisions[5].difference.mean == pytest.approx(3.0)
    assert len(decisions_markdown(decisions, 8).strip().splitlines()) == 6 + len(hypotheses)


def test_one_small_p_among_many_is_not_enough():
    """p = 0.03 alone would do; among seven comparisons it does not, and its interval is not on the other side."""
    values = around(0.0, 1.0, 5)
    shift = float(stats.t.isf(0.015, 7)) * np.std(values, ddof=1) / np.sqrt(8)
    results = [*runs("arm", [50.0 + shift + value for value in values]), *runs("base", [50.0] * 8)]
    one = Hypothesis("helps", "arm", "base", "mIoU", "higher")
    alone = decide([one], results, pairs=8)[0]
    assert alone.p == pytest.approx(0.03) and alone.verdict == "supported"
    other = Hypothesis("not run", "absent", "base", "mIoU", "higher")
    among = decide([one, *[other] * 6], results, pairs=8)[0]
    assert among.adjusted == pytest.approx(0.21) and among.verdict == "undecided"


def test_pairs_are_of_one_seed_and_world():
    results = [
        Result("arm", 1, {}, {"mIoU": 5.0}, 1.0, {}, world=0),
        Result("arm", 1, {}, {"mIoU": 9.0}, 1.0, {}, world=1),
        Result("base", 1, {}, {"mIoU": 4.0}, 1.0, {}, world=1),
        Result("base", 2, {}, {"mIoU": 1.0}, 1.0, {}, world=0),
    ]
    assert paired_differences(Hypothesis("h", "arm", "base", "mIoU", "higher"), results) == [5.0]


def test_hypotheses_are_read_and_checked():
    good = {"name": "help", "arm": "a", "against": "start", "metric": "verbs", "expected": "higher"}
    assert "verbs" in GROUNDING
    assert read_hypotheses(AblationConfig(configurations={"a": {}}, hypotheses=[good])) == [Hypothesis(**good)]
    for change, message in (
        ({"arm": "b"}, "no configuration 'b'"),
        ({"against": "b"}, "no configuration 'b'"),
        ({"metric": "MIOU"}, "'MIOU' is unknown"),
        ({"expected": "more"}, "neither higher nor lower"),
        ({"extra": 1}, "entry 1: needs name"),
    ):
        with pytest.raises(DataError, match=message):
            read_hypotheses(AblationConfig(configurations={"a": {}}, hypotheses=[{**good, **change}]))


def test_decisions_are_written(tmp_path):
    results = [*runs("arm", around(52.0, 0.5, 0)), *runs("base", around(50.0, 0.5, 1))]
    decisions = decide([Hypothesis("helps", "arm", "base", "mIoU", "higher")], results, pairs=8)
    paths = write_decisions(tmp_path, decisions, 8)
    assert "| helps | mIoU: arm − base | higher | +2.0 [" in paths[0].read_text()
    told = json.loads(paths[1].read_text())
    assert told["decisions"][0]["verdict"] == "supported" and len(told["decisions"][0]["interval"]) == 2
