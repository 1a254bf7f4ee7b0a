"""The coin and the sampler: frequencies, purity, and the layout that TRL expects."""

from __future__ import annotations

from collections import Counter

import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler
from trl.trainer.utils import RepeatSampler

from invert_rl.schedule import Draw, TaskSampler, TaskSchedule, replacement

ROUNDS = 20_000


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("p", [0.0, 0.2, 0.8, 1.0])
def test_frequencies_are_p_and_uniform(seed, p):
    """Within five standard errors of eq. 13 and of the uniform choice after it."""
    schedule = TaskSchedule(seed=seed, tvg_probability=p)
    counts = Counter(schedule(k) for k in range(ROUNDS))
    for task, share in {"tvg": p, "vc": (1 - p) / 3, "ar": (1 - p) / 3, "vd": (1 - p) / 3}.items():
        error = (share * (1 - share) / ROUNDS) ** 0.5
        assert abs(counts[task] / ROUNDS - share) <= 5 * error


def test_a_round_depends_on_seed_and_number_alone():
    first = [TaskSchedule(seed=5)(k) for k in range(200)]
    schedule = TaskSchedule(seed=5)
    assert [schedule(k) for k in reversed(range(200))] == first[::-1]
    assert [TaskSchedule(seed=6)(k) for k in range(200)] != first


def test_subsets_of_tasks():
    assert {TaskSchedule(tasks=("tvg",))(k) for k in range(50)} == {"tvg"}
    assert {TaskSchedule(tasks=("tvg", "vd"), tvg_probability=0.5)(k) for k in range(100)} == {"tvg", "vd"}
    assert {TaskSchedule(tasks=("vc", "ar"), tvg_probability=0.0)(k) for k in range(100)} == {"vc", "ar"}


def test_tvg_can_begin_late_and_be_alone_at_the_end():
    free = TaskSchedule(tvg_probability=0.5)
    bound = TaskSchedule(tvg_probability=0.5, tvg_from=100, tvg_only_from=200)
    assert "tvg" not in {bound(k) for k in range(100)}
    assert [bound(k) for k in range(100, 200)] == [free(k) for k in range(100, 200)]
    assert {bound(k) for k in range(200, 300)} == {"tvg"}
    assert TaskSchedule(tasks=("vd",), tvg_probability=0.0, tvg_only_from=5)(10) == "vd"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tvg_probability": 1.2}, r"must be in \[0, 1\], found 1.2"),
        ({"tvg_probability": float("nan")}, r"must be in \[0, 1\]"),
        ({"tasks": ("tvg", "vqa")}, "unknown task 'vqa'; the tasks are tvg, vc, ar, vd"),
        ({"tasks": ()}, "tasks is empty"),
        ({"tasks": ("tvg", "vc", "vc")}, "names a task twice"),
        ({"tasks": ("vc",)}, "leave out tvg"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TaskSchedule(**settings)


def make_sampler(
    rows: int = 11, prompts: int = 4, generations: int = 2, repeats: int = 1, seed: int = 3
) -> TaskSampler:
    usable = {"tvg": range(rows), "vc": range(0, rows, 2), "ar": range(rows), "vd": range(rows)}
    return TaskSampler(TaskSchedule(seed=seed, tvg_probability=0.5), usable, prompts, generations, repeats)


def rounds_of(sampler: TaskSampler, epochs: int = 1) -> list[list[Draw]]:
    size = sampler.prompts_per_round * sampler.num_generations * sampler.repeats
    draws = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        draws += list(sampler)
    return [draws[start : start + size] for start in range(0, len(draws), size)]


def test_layout_is_that_of_repeat_sampler():
    sampler = make_sampler(generations=3, repeats=4)
    stock = list(RepeatSampler(range(12), mini_repeat_count=3, batch_size=4, repeat_count=4, shuffle=False))
    first_round = rounds_of(sampler)[0]
    shape = [draw.slot for draw in first_round]
    assert shape == stock[: len(shape)]
    assert len(list(sampler)) == len(sampler)


def test_rounds_hold_one_task_and_do_not_depend_on_the_layout():
    plain = rounds_of(make_sampler(), epochs=5)
    for other in (make_sampler(generations=8), make_sampler(repeats=6)):
        for number, (a, b) in enumerate(zip(plain, rounds_of(other, epochs=5), strict=True)):
            assert {draw.task for draw in a} == {TaskSchedule(seed=3, tvg_probability=0.5)(number)}
            assert list(dict.fromkeys(a)) == list(dict.fromkeys(b))


def test_every_row_of_a_task_is_used_before_any_is_used_again():
    draws = [
        d for one_round in rounds_of(make_sampler(), epochs=20) for d in dict.fromkeys(one_round) if d.task == "vc"
    ]
    rows = [draw.row for draw in draws]
    assert set(rows) == set(range(0, 11, 2))
    for start in range(0, len(rows) - 6, 6):
        assert sorted(rows[start : start + 6]) == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_together_get_each_round_and_agree_on_its_task(world_size):
    sampler = make_sampler(prompts=4, generations=4, repeats=1)
    batches = BatchSampler(sampler, batch_size=16 // world_size, drop_last=False)
    shards = [
        list(BatchSamplerShard(batches, num_processes=world_size, process_index=rank)) for rank in range(world_size)
    ]
    for number, per_rank in enumerate(zip(*shards, strict=True)):
        assert [draw for batch in per_rank for draw in batch] == rounds_of(sampler)[number]
        assert len({draw.task for batch in per_rank for draw in batch}) == 1


def test_replacements_are_pure_and_spread():
    schedule = TaskSchedule(seed=1)
    draw = Draw("tvg", 3, round=7, slot=2)
    assert replacement(schedule, range(50), draw, 0) == replacement(schedule, range(50), draw, 0)
    picks = {replacement(schedule, range(50), draw._replace(slot=slot), 0).row for slot in range(40)}
    assert len(picks) > 15


def test_a_task_without_rows_is_refused():
    with pytest.raises(ValueError, match="no row can be used for task 'vc'"):
        TaskSampler(TaskSchedule(), {"tvg": [0], "vc": [], "ar": [0], "vd": [0]}, 1, 1, 1)
