"""Weights that follow what rows earned: of the rounds long enough ago, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from invert_rl.curriculum import CurriculumRows
from invert_rl.online_difficulty import FLOOR, LAG, OnlineRows, SolveRates


def test_factors_look_at_the_last_note_of_the_task_that_is_old_enough():
    rates = SolveRates()
    rates.add([(0, "tvg", 3, 1.0), (4, "tvg", 3, 0.25), (0, "vc", 5, 0.0)])
    rows = np.array([3, 5])
    assert rates.factors("tvg", rows, LAG - 1).tolist() == [1.0, 1.0]
    assert rates.factors("tvg", rows, LAG).tolist() == [FLOOR, 1.0]
    assert rates.factors("tvg", rows, 3 + LAG).tolist() == [FLOOR, 1.0]
    assert rates.factors("tvg", rows, 4 + LAG).tolist() == [0.75, 1.0]
    assert rates.factors("vc", rows, LAG).tolist() == [1.0, FLOOR]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rows_that_teach_nothing_come_up_a_tenth_as_often(seed):
    rates = SolveRates()
    rates.add([(0, "tvg", row, 1.0 if row < 5 else 0.5) for row in range(10)])
    rows = OnlineRows(list(range(10)), rates, "tvg")
    rng = np.random.default_rng(seed)
    drawn = [rows.draw(9, 1, rng)[0] for _ in range(2000)]
    assert np.mean([row < 5 for row in drawn]) == pytest.approx(FLOOR / (1 + FLOOR), abs=0.03)
    early = [rows.draw(0, 1, rng)[0] for _ in range(2000)]
    assert np.mean([row < 5 for row in early]) == pytest.approx(0.5, abs=0.05)


def test_weights_of_the_curriculum_are_multiplied():
    rates = SolveRates()
    rates.add([(0, "tvg", 1, 0.0)])
    rows = OnlineRows(CurriculumRows([1, 2], [10.0, 1.0], [0, 0]), rates, "tvg")
    rng = np.random.default_rng(0)
    drawn = [rows.draw(5, 1, rng)[0] for _ in range(2000)]
    assert np.mean([row == 1 for row in drawn]) == pytest.approx(0.5, abs=0.05)
