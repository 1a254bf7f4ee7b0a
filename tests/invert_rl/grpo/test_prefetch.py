"""Worker processes that decode ahead change nothing but the waiting: same weights, same replacements, exact resume."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_prep.rows import Row
from invert_rl.frame_budgets import FrameBudgets
from invert_rl.grpo.trainer import InvertGRPOTrainer
from invert_rl.schedule import Draw, TaskSampler, TaskSchedule
from invert_rl.task_data import Lookahead, TaskDataset
from invert_rl.tasks import DEFAULT_TASKS, video_of


def same_weights(first: InvertGRPOTrainer, second: InvertGRPOTrainer) -> bool:
    pairs = zip(first.model.parameters(), second.model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def logged(trainer: InvertGRPOTrainer, name: str) -> list[float]:
    return [log[name] for log in trainer.state.log_history if name in log]


@pytest.fixture
def some_broken(world: Path, rows: list[Row], tmp_path: Path) -> dict:
    """The rows, two of them with videos that are missing or a pipe that nobody writes to."""
    root = tmp_path / "videos"
    shutil.copytree(world / "videos", root)
    os.mkfifo(root / "pipe.mp4")
    names = {1: "missing.mp4", 4: "pipe.mp4"}
    return {
        "rows": [replace(row, video=names.get(i, row.video)) for i, row in enumerate(rows)],
        "video_root": root,
    }


def test_the_run_is_the_same_and_resumes_exactly(make_trainer, tiny_qwen2_5, tmp_path, some_broken):
    settings = {**some_broken, "max_steps": 8, "tvg_probability": 0.5, "per_device_train_batch_size": 8}
    saving = {"save_strategy": "steps", "save_steps": 4}
    plain = make_trainer(tiny_qwen2_5, str(tmp_path / "plain"), **settings, **saving)
    plain.train()
    ahead = make_trainer(tiny_qwen2_5, str(tmp_path / "ahead"), **settings, dataloader_num_workers=2)
    ahead.train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-4"))
    assert same_weights(plain, ahead)
    assert sum(logged(plain, "data/replaced")) > 0
    assert logged(ahead, "data/replaced") == logged(plain, "data/replaced")
    assert set(plain.quarantine.videos) == {"missing.mp4", "pipe.mp4"}
    assert plain.quarantine.videos["pipe.mp4"] == "not a regular file but a named pipe"
    assert ahead.clips._team == []  # the processes ended with the training
    assert ahead.args.dataloader_num_workers == 2


def test_a_run_whose_workers_are_killed_goes_on(make_trainer, tiny_qwen2_5, tmp_path):
    plain = make_trainer(tiny_qwen2_5, str(tmp_path / "plain"), max_steps=3)
    plain.train()
    ahead = make_trainer(tiny_qwen2_5, str(tmp_path / "ahead"), max_steps=3, dataloader_num_workers=1)
    reward, killed = ahead.reward_funcs[0], []

    def kill_and_reward(**columns):
        for worker, _ in ahead.clips._team:
            if worker.process is not None and not killed:
                os.kill(worker.process.pid, signal.SIGKILL)
                killed.append(worker.process.pid)
        return reward(**columns)

    ahead.reward_funcs[0] = kill_and_reward
    ahead.train()
    assert killed
    assert same_weights(plain, ahead)
    assert not ahead.quarantine.videos


@pytest.mark.parametrize(("ranks", "prompts", "generations"), [(1, 3, 4), (2, 3, 2), (2, 1, 4), (4, 6, 2)])
def test_lookahead_is_what_the_loader_gives_each_rank(rows, ranks, prompts, generations):
    """Against accelerate's own sharding, over epoch borders and from a round in the middle, as after a resume."""
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler

    data = TaskDataset(rows, list(DEFAULT_TASKS), FrameBudgets(5, max_frames=(4, 8, 16), total_pixels=(10**5, 10**6)))
    sampler = TaskSampler(TaskSchedule(seed=5, tvg_probability=0.5), data.usable_rows, prompts, generations, 2)
    expected: dict[int, dict[int, list]] = {rank: {} for rank in range(ranks)}
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = BatchSampler(sampler, prompts * generations // ranks, drop_last=False)
        for rank in range(ranks):
            for batch in BatchSamplerShard(batches, ranks, rank, even_batches=True):
                draws: list[Draw] = list(dict.fromkeys(batch))
                refs = [video_of(data[draw]["prompt"]) for draw in draws]
                expected[rank][draws[0].round] = list(dict.fromkeys(refs))
    rounds = 3 * sampler.rounds_per_epoch
    for rank in range(ranks):
        lookahead = Lookahead(data, sampler, rank, ranks)
        for number in [*range(rounds - 1), 4, 5, 1]:
            assert lookahead.after(number) == lookahead.after(number) == expected[rank][number + 1]
