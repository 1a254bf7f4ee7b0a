"""Two ranks, torchrun and gloo: class means are those of the whole batch, and both ranks have one model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.invert_rl.actionvlm.small import experiment, weights

SCRIPT = Path(__file__).with_name("two_ranks.py")
STILL = {"learning_rate": 0.0, "llm_learning_rate": 0.0, "max_steps": 1, "per_device_train_batch_size": 4}
"""One step of a vision-only epoch that changes no weight: frame losses, which nothing divides, are then the same."""
JOBS = {"still": STILL, "moving": {"max_steps": 4, "per_device_train_batch_size": 2}}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What both ranks ended with, by job."""
    folder = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d"]
    result = subprocess.run(
        [*launch, "--rdzv_endpoint=localhost:0", str(SCRIPT), str(folder), json.dumps(JOBS)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-6000:]
    return {name: [torch.load(folder / f"{name}{rank}.pt") for rank in range(2)] for name in JOBS}


def test_class_means_are_over_the_videos_of_both_ranks(two, tmp_path):
    first, second = two["still"]
    assert sorted(first["places"] + second["places"]) == list(range(8))
    alone = experiment(tmp_path / "alone", **{**STILL, "per_device_train_batch_size": 8})
    alone.trainer().train()
    whole = weights(alone)
    half = experiment(tmp_path / "half", **STILL)  # what a rank sees that hears of no other
    half.trainer().train()
    for name in ("means.mean", "means.count"):
        assert torch.equal(first["weights"][name], second["weights"][name])
        torch.testing.assert_close(first["weights"][name], whole[name], rtol=5e-4, atol=0)
        assert not torch.allclose(whole[name], weights(half)[name], rtol=2e-3)


def test_both_ranks_end_with_one_model_after_epochs_of_both_kinds(two, tmp_path):
    first, second = (rank["weights"] for rank in two["moving"])
    assert int(first["means.epoch"]) == 1  # two steps of vision alone, two of both
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    start = weights(experiment(tmp_path, **JOBS["moving"]))
    for part in ("advantage.bias", "language.special", "projection.weight"):
        assert not torch.equal(start[part], first[part]), part
