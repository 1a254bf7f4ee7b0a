"""FSDP2 on two CPU ranks: rollouts of unequal length, the run of one rank, exact resume, a whole model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from invert_rl.resume import latest_checkpoint, why_incomplete
from tests.invert_rl.grpo.sharded_runs import (
    PLAIN,
    SAVING,
    check_equal_and_moved,
    check_exact_resume,
    check_run_of_one_rank,
)
from tests.invert_rl.grpo.torchrun import Rank, read_ranks, run_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tiny_qwen2_5, world, tmp_path_factory) -> Path:
    """Folder of three runs: straight through, resumed from its step 2, and one by plain gradient descent."""
    folder: Path = tmp_path_factory.mktemp("fsdp")
    job = {"checkpoint": tiny_qwen2_5, "world": str(world), "fsdp": True, "settings": SAVING}
    straight, resumed = folder / "straight", folder / "resumed"
    run_ranks(
        folder,
        [
            {**job, "output": str(straight), "save_model": True},
            {**job, "output": str(resumed), "resume": str(straight / "checkpoint-2")},
            {**job, "output": str(folder / "plain"), "settings": PLAIN},
        ],
    )
    return folder


@pytest.fixture
def ranks(runs) -> Callable[[str], list[Rank]]:
    return lambda name: read_ranks(runs / name)


def test_the_model_is_sharded_and_trains(ranks):
    check_equal_and_moved(ranks("straight"), "FSDP")


def test_ranks_may_stop_generating_at_different_lengths(ranks):
    """One rank's completions end early in some round; it goes on with the other until that one has finished too."""
    first, second = ranks("straight")
    longest = [
        [max(len(ids) for ids in one_round["completions"]) for one_round in rank.rounds] for rank in (first, second)
    ]
    assert any(a != b for a, b in zip(*longest, strict=True))


def test_shards_make_the_run_of_one_rank(ranks, tiny_qwen2_5, world, tmp_path):
    check_run_of_one_rank(ranks("plain"), tiny_qwen2_5, world, tmp_path)


def test_resume_is_exact(ranks, runs):
    assert latest_checkpoint(runs / "straight") == str(runs / "straight" / "checkpoint-4")
    check_exact_resume(ranks("straight")[0], ranks("resumed")[0])


def test_a_sharded_checkpoint_that_is_cut_off_is_noticed(runs):
    checkpoint = runs / "resumed" / "checkpoint-4"
    assert why_incomplete(checkpoint) is None
    shard = sorted((checkpoint / "optimizer_0").glob("*.distcp"))[-1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert f"optimizer_0/{shard.name} is cut off" in (why_incomplete(checkpoint) or "")
    shard.write_bytes(whole)


def test_the_final_model_is_saved_whole(ranks, runs, tiny_qwen2_5):
    saved = load_file(runs / "straight" / "model" / "model.safetensors")
    start = load_file(Path(tiny_qwen2_5) / "model.safetensors")
    assert {name: value.shape for name, value in saved.items()} == {name: v.shape for name, v in start.items()}
    end = {name.rpartition("layers.")[2]: value for name, value in ranks("straight")[0].end.items()}
    compared = 0
    for name, value in saved.items():
        if "model.layers." in name:
            compared += 1
            assert torch.equal(value, end[name.rpartition("layers.")[2]])
    assert compared > 20
