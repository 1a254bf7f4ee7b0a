"""Weights and first rounds of rows: frequencies, purity, and what difficulty ratings turn into."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.curriculum import CurriculumRows, curriculum_rows, weigh_by_difficulty
from invert_rl.schedule import Draw, TaskSampler, TaskSchedule, replacement
from invert_rl.task_data import TaskDataset

TASKS = ("tvg", "vc", "ar", "vd")


def row(number: int, **meta) -> Row:
    meta = {"verbs": ["open"], "masked_query": "person [] it", **meta}
    return Row(f"r{number}", f"{number}.mp4", 10.0, "person opens it", ((1.0, 2.0),), meta=meta)


def sampler_of(rows: list[Row], prompts: int = 2, seed: int = 3, rounds: int = 10, generations: int = 1) -> TaskSampler:
    usable = TaskDataset(rows, TASKS).usable_rows
    schedule = TaskSchedule(seed=seed, tvg_probability=0.5)
    return TaskSampler(schedule, usable, prompts, generations, 1, rounds_per_epoch=rounds)


def draws_of(sampler: TaskSampler, epochs: int = 1) -> list[Draw]:
    draws = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        draws += list(sampler)
    return draws


def test_draws_are_in_proportion_to_the_weights():
    """The first place of a round, within five standard errors; the weights differ by source and by task."""
    sources = [1.0] * 3 + [2.0] * 3 + [{"tvg": 0.5, "vc": 4.0}] * 2
    sampler = sampler_of([row(n, weight=weight) for n, weight in enumerate(sources)], rounds=8000)
    draws = draws_of(sampler)
    for task, weights in {"tvg": [1] * 3 + [2] * 3 + [0.5] * 2, "vc": [1] * 3 + [2] * 3 + [4] * 2}.items():
        first = [draw.row for draw in draws if draw.task == task and draw.slot == 0]
        counts = Counter(first)
        for number, weight in enumerate(weights):
            share = weight / sum(weights)
            assert abs(counts[number] / len(first) - share) <= 5 * (share * (1 - share) / len(first)) ** 0.5


def test_the_second_row_of_a_round_is_drawn_among_the_others():
    """Without repetition: P(1 after 0) = w1 / (w1 + w2)."""
    rows = CurriculumRows([0, 1, 2], [5.0, 3.0, 1.0], [0, 0, 0])
    pairs = [tuple(rows.draw(0, 2, np.random.default_rng(seed))) for seed in range(20_000)]
    assert all(a != b for a, b in pairs)
    after_first = [b for a, b in pairs if a == 0]
    share = 3 / 4
    error = (share * (1 - share) / len(after_first)) ** 0.5
    assert abs(after_first.count(1) / len(after_first) - share) <= 5 * error


def test_a_row_does_not_come_up_before_its_round():
    rows = [row(n, from_round={"tvg": 40} if n % 2 else 0) for n in range(6)]
    draws = draws_of(sampler_of(rows, rounds=100))
    early = {draw.row for draw in draws if draw.task == "tvg" and draw.round < 40}
    late = {draw.row for draw in draws if draw.task == "tvg" and draw.round >= 40}
    assert early == {0, 2, 4}
    assert late == set(range(6))
    assert {draw.row for draw in draws if draw.task == "vc" and draw.round < 40} == set(range(6))


def test_a_round_depends_on_seed_and_number_alone():
    """Not on epochs, on what was drawn before, or on how many completions there are."""
    rows = [row(n, weight=1 + n % 3, from_round=10 * (n % 2)) for n in range(9)]
    whole = draws_of(sampler_of(rows, rounds=60))
    in_epochs = draws_of(sampler_of(rows, rounds=15), epochs=4)
    assert whole == in_epochs
    resumed = sampler_of(rows, rounds=15)
    resumed.set_epoch(3)
    assert list(resumed) == [draw for draw in whole if draw.round >= 45]
    assert list(dict.fromkeys(draws_of(sampler_of(rows, rounds=60, generations=4)))) == whole
    assert draws_of(sampler_of(rows, rounds=60, seed=4)) != whole


def test_ranks_agree_on_a_round_of_a_curriculum():
    sampler = sampler_of([row(n, weight=1 + n % 3) for n in range(9)], prompts=4, generations=2)
    alone = list(sampler)
    batches = BatchSampler(sampler, batch_size=4, drop_last=False)
    shards = [list(BatchSamplerShard(batches, num_processes=2, process_index=rank)) for rank in range(2)]
    together = [draw for per_rank in zip(*shards, strict=True) for batch in per_rank for draw in batch]
    assert together == alone


def test_fewer_rows_than_places_are_taken_again():
    rows = CurriculumRows([4, 7, 9], [1.0, 1.0, 1.0], [0, 0, 5])
    chosen = rows.draw(0, 5, np.random.default_rng(0))
    assert sorted(chosen[:2]) == [4, 7]
    assert chosen == [chosen[0], chosen[1]] * 2 + [chosen[0]]


def test_replacements_heed_the_curriculum():
    rows = CurriculumRows([0, 1, 2], [1.0, 8.0, 1.0], [0, 0, 9])
    schedule = TaskSchedule(seed=1)
    picks = [replacement(schedule, rows, Draw("tvg", 0, 3, slot), 0).row for slot in range(2000)]
    assert 2 not in picks
    assert abs(picks.count(1) / 2000 - 8 / 9) <= 5 * (8 / 81 / 2000) ** 0.5
    assert replacement(schedule, rows, Draw("tvg", 0, 3, 1), 0) == replacement(schedule, rows, Draw("tvg", 0, 3, 1), 0)


def test_rows_that_count_alike_are_drawn_in_passes_as_without_columns():
    plain = draws_of(sampler_of([row(n) for n in range(7)], rounds=20))
    assert draws_of(sampler_of([row(n, weight=2, from_round=0) for n in range(7)], rounds=20)) == plain


def test_weight_0_leaves_a_row_out_for_that_task():
    rows = [row(0), row(1, weight={"vc": 0}), row(2, weight=0)]
    usable = TaskDataset(rows, TASKS).usable_rows
    assert list(usable["tvg"]) == [0, 1]
    assert list(usable["vc"]) == [0]


@pytest.mark.parametrize(
    ("metas", "message"),
    [
        ([{"weight": -1}], r"row 'r0': meta.weight must be a number of at least 0, or one per task; found -1"),
        ([{"weight": "high"}], "row 'r0': meta.weight must be a number"),
        ([{"weight": True}], "row 'r0': meta.weight must be a number"),
        ([{"weight": float("nan")}], "row 'r0': meta.weight must be a number"),
        ([{"from_round": 1.5}, {}], "row 'r0': meta.from_round must be a whole number"),
        ([{"weight": 0}], "task 'tvg': all of its 1 rows have weight 0"),
        ([{"from_round": 3}, {"from_round": 2}], "no row may come up in round 0, the first has from_round 2"),
    ],
)
def test_bad_columns_are_refused(metas, message):
    rows = [row(number, **meta) for number, meta in enumerate(metas)]
    with pytest.raises(DataError, match=message):
        curriculum_rows(rows, range(len(rows)), "tvg")


def rated(*means: float | None) -> list[Row]:
    return [
        row(n, mean_reward={} if mean is None else {"tvg": mean, "vc": 0.5}, solve_rate={"tvg": 1.0, "vc": 0.5})
        for n, mean in enumerate(means)
    ]


def test_rows_outside_the_range_are_dropped_for_the_task_that_they_were_rated_for():
    rows, inside = weigh_by_difficulty(rated(0.0, 0.1, 0.5, 0.9, 1.0, None), ("tvg", "vc"), (0.1, 0.9))
    usable = TaskDataset(rows, ("tvg", "vc")).usable_rows
    assert list(usable["tvg"]) == [1, 2, 3]
    assert list(usable["vc"]) == [0, 1, 2, 3, 4]
    assert inside == {"tvg": 3, "vc": 5}


def test_rows_outside_the_range_can_be_drawn_less_often_instead():
    rows = rated(0.0, 0.5)
    rows[1].meta["weight"] = 3.0
    weighed, _ = weigh_by_difficulty(rows, ("tvg",), (0.1, 0.9), outside=0.25)
    usable = curriculum_rows(weighed, range(2), "tvg")
    assert isinstance(usable, CurriculumRows)
    assert usable.weights.tolist() == [0.25, 3.0]
    assert rows[0].meta.get("weight") is None


def test_the_measure_can_be_the_solve_rate():
    with pytest.raises(DataError, match="all of its 2 rows have weight 0"):
        TaskDataset(weigh_by_difficulty(rated(0.5, 0.6), ("tvg",), (0.1, 0.9), measure="solve_rate")[0], ("tvg",))


@pytest.mark.parametrize("rating", ["x", 0.5, True, [1], {"tvg": "x"}, {"tvg": [1]}, {"tvg": True}])
def test_a_rating_is_a_number_for_each_task(rating):
    (row,) = rated(0.5)
    with pytest.raises(DataError, match=f"row {row.id!r}: meta.mean_reward must have a number for each task"):
        weigh_by_difficulty([replace(row, meta={"mean_reward": rating})], ("tvg",), (0, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bounds": (0.9, 0.1)}, "0 <= lowest <= highest <= 1"),
        ({"bounds": (0.1,)}, "must be two numbers"),
        ({"bounds": (0.1, 90)}, "must be two numbers"),
        ({"bounds": (0, 1), "outside": -1}, "difficulty_outside must not be negative"),
        ({"bounds": (0, 1), "measure": "iou"}, "use mean_reward or solve_rate"),
        ({"bounds": (0, 1), "tasks": ("ar",)}, "rate the rows with `invert-rl rate-difficulty --tasks ar"),
    ],
)
def test_bad_ranges_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        weigh_by_difficulty(rated(0.5), **{"tasks": ("tvg",), **arguments})
