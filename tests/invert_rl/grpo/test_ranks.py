"""Two ranks, torchrun and gloo: they make the run that one rank makes, and a fault on one of them stops neither."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.rows import Row
from invert_rl.schedule import TaskSchedule
from tests.invert_rl.grpo import two_ranks
from tests.invert_rl.grpo.torchrun import Rank, distance, read_ranks, run_ranks

GENTLE = {"learning_rate": 1e-6}
"""Adam turns a gradient that is zero but for rounding, as that of a key bias, into a whole step of this size."""
PLAIN = {"optim": "sgd", "learning_rate": 0.1}
LONG = {"max_steps": 12}
SAVING = {"max_steps": 7, "save_strategy": "steps", "save_steps": 4}
"""With three rows the checkpoint lies in the middle of the second epoch, and the end in the third."""
JOBS = {
    "gentle": {"settings": GENTLE},
    "plain": {"settings": PLAIN},
    "video": {"fault": "video", "settings": LONG},
    "reward": {"fault": "reward", "settings": LONG},
    "reward_always": {"fault": "reward_always"},
    "straight": {"rows": 3, "settings": SAVING},
    "resumed": {"rows": 3, "settings": SAVING, "resume": "straight/checkpoint-4"},
}
SLOW_JOBS = {
    "hang": {"fault": "hang", "limit": 60.0, "settings": {**LONG, "dataloader_num_workers": 1}},
    "killed": {"fault": "killed", "settings": {**LONG, "dataloader_num_workers": 1}},
}
Runs = Callable[[str], list[Rank]]


def launch(folder: Path, jobs: dict[str, dict], **common: str) -> Runs:
    """Run all jobs in one launch; the result gives what both ranks saw in the job of that name."""
    jobs = {name: {**common, "output": str(folder / name), **job} for name, job in jobs.items()}
    for job in jobs.values():
        if "resume" in job:
            job["resume"] = str(folder / job["resume"])
    run_ranks(folder, list(jobs.values()))
    return lambda name: read_ranks(folder / name)


@pytest.fixture(scope="module")
def two(tiny_qwen2_5, world, tmp_path_factory) -> Runs:
    """The runs of `JOBS`."""
    return launch(tmp_path_factory.mktemp("two"), JOBS, checkpoint=tiny_qwen2_5, world=str(world))


@pytest.fixture(scope="module")
def two_with_workers(tiny_qwen2_5, world, tmp_path_factory) -> Runs:
    """The runs of `SLOW_JOBS`, which start worker processes."""
    return launch(tmp_path_factory.mktemp("two_with_workers"), SLOW_JOBS, checkpoint=tiny_qwen2_5, world=str(world))


@pytest.fixture(scope="module")
def one(tiny_qwen2_5, world, tmp_path_factory) -> Callable[[dict], Rank]:
    """A run of one rank, in this process."""

    def run(settings: dict) -> Rank:
        folder = tmp_path_factory.mktemp("one")
        two_ranks.main({"checkpoint": tiny_qwen2_5, "world": str(world), "output": str(folder), "settings": settings})
        return read_ranks(folder, 1)[0]

    return run


@pytest.mark.parametrize("job", ["gentle", "plain"])
@pytest.mark.parametrize(
    "batch",
    [
        {"per_device_train_batch_size": 4},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    ],
    ids=["in one batch", "in two micro-batches"],
)
def test_two_ranks_are_the_run_of_one(two, one, job, batch):
    """The same completions and rewards, bit for bit, and the same weights to 1e-6."""
    first, second = two(job)
    alone = one({**JOBS[job]["settings"], **batch})
    assert len(alone.rounds) == len(first.rounds) == 4
    for a, b, both in zip(first.rounds, second.rounds, alone.rounds, strict=True):
        for column in ("ids", "tasks", "completions", "rewards"):
            assert a[column] + b[column] == both[column]
    assert len({tuple(ids) for one_round in alone.rounds for ids in one_round["completions"]}) > 8
    assert distance(first.end, second.end) == 0
    assert distance(first.end, alone.end) < 1e-6
    assert distance(alone.start, alone.end) > (1e-3 if job == "plain" else 2e-6)


def test_two_ranks_resume_in_a_later_epoch_where_they_stopped(two):
    straight, resumed = two("straight"), two("resumed")
    for whole, rest in zip(straight, resumed, strict=True):
        assert rest.rounds == whole.rounds[4:]
        assert distance(whole.end, rest.end) == 0


def check_groups(ranks: list[Rank], seed: int = 3) -> None:
    """Both ranks agree on each round's task, prompt and replacements, and end with the same weights."""
    first, second = ranks
    schedule = TaskSchedule(seed=seed, tvg_probability=0.5)
    assert first.replaced == second.replaced
    assert first.left_out == second.left_out
    assert distance(first.end, second.end) == 0
    scored = [one_round for one_round in first.rounds if one_round["ids"][0] in {r["ids"][0] for r in second.rounds}]
    for number, (a, b) in enumerate(zip(scored, second.rounds, strict=True)):
        assert set(a["tasks"]) == set(b["tasks"]) == {schedule(number)}
        assert len(set(a["ids"] + b["ids"])) == 1  # one prompt a round, its four completions on both ranks


def check_video_replaced(ranks: list[Rank], rows: list[Row], reason: str) -> None:
    """The video of the first row is left out by both ranks, for a reason that only the second saw."""
    check_groups(ranks)
    assert len(ranks[0].rounds) == 12
    assert ranks[0].left_out == {rows[0].video: reason}
    assert sum(ranks[0].replaced) >= 1
    used = {row_id for one_round in ranks[0].rounds for row_id in one_round["ids"]}
    assert not used & {row.id for row in rows if row.video == rows[0].video}


def test_a_video_that_fails_on_one_rank_is_replaced_on_both(two, rows):
    check_video_replaced(two("video"), rows, "the disk of this rank is broken")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "reason"),
    [
        ("hang", "decoding: stopped after the limit of 60 s"),
        ("killed", "decoding: the process died with exit code -9"),
    ],
)
def test_a_decoder_that_hangs_or_is_killed_on_one_rank_stops_neither(two_with_workers, rows, job, reason):
    check_video_replaced(two_with_workers(job), rows, reason)


def test_a_reward_that_raises_on_one_rank_has_the_row_replaced_on_both(two, rows):
    ranks = two("reward")
    check_groups(ranks)
    first, second = ranks
    broken = {row.id for row in rows if row.video == rows[0].video}
    assert first.left_out
    for name, reason in first.left_out.items():
        assert any(f"(row {row_id}, " in name for row_id in broken)
        assert reason == "reward spy raised ZeroDivisionError: no verbs here"
    assert sum(first.replaced) == len(first.left_out)
    assert len(second.rounds) == 12
    assert not any(broken & set(one_round["ids"]) for one_round in second.rounds)


def test_a_reward_that_always_raises_ends_both_ranks_with_its_name(two):
    for rank in two("reward_always"):
        assert rank.error is not None
        assert "rewards raised in 5 generations of one round" in rank.error
        assert "reward spy raised ZeroDivisionError: no verbs anywhere" in rank.error
        assert distance(rank.start, rank.end) == 0
