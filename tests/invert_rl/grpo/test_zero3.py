"""ZeRO-3 on two CPU ranks: the run of one rank, evaluated before, during and after, exact resume, a whole model."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors.torch import load_file

from invert_rl.models import load_model
from tests.invert_rl.grpo.sharded_runs import (
    PLAIN,
    SAVING,
    check_equal_and_moved,
    check_exact_resume,
    check_run_of_one_rank,
)
from tests.invert_rl.grpo.torchrun import Rank, read_ranks, run_ranks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed: invert-rl[deepspeed]"),
]


@pytest.fixture(scope="module")
def runs(tiny_qwen2_5, world, tmp_path_factory) -> Path:
    """Folder of three runs: straight through, resumed from its step 2, and one by plain gradient descent."""
    folder: Path = tmp_path_factory.mktemp("zero3")
    job = {"checkpoint": tiny_qwen2_5, "world": str(world), "zero3": True, "settings": SAVING, "validate": 3}
    straight, resumed = folder / "straight", folder / "resumed"
    for name, more in {
        "straight": {"save_model": True},
        "resumed": {"resume": str(straight / "checkpoint-2")},
        "plain": {"settings": PLAIN, "validate": 0},
    }.items():
        run_ranks(folder, [{**job, "output": str(folder / name), **more}], timeout=1800)
    assert resumed.is_dir()
    return folder


@pytest.fixture
def ranks(runs) -> Callable[[str], list[Rank]]:
    return lambda name: read_ranks(runs / name)


def test_the_model_is_sharded_and_trains(ranks):
    check_equal_and_moved(ranks("straight"), "DeepSpeedEngine")


def test_it_is_evaluated_before_during_and_after(ranks):
    found = ranks("straight")[0].metrics
    assert {"mIoU", "VC", "AR", "VD", "unparsable"} <= found["before"].keys()
    assert found["before"].keys() == found["after"].keys()
    assert [entry["step"] for entry in found["during"]] == [2, 4]


def test_shards_make_the_run_of_one_rank(ranks, tiny_qwen2_5, world, tmp_path):
    check_run_of_one_rank(ranks("plain"), tiny_qwen2_5, world, tmp_path)


def test_resume_is_exact(ranks):
    check_exact_resume(ranks("straight")[0], ranks("resumed")[0])


def test_the_final_model_is_saved_whole(ranks, runs, tiny_qwen2_5):
    saved = load_file(runs / "straight" / "model" / "model.safetensors")
    start = load_file(Path(tiny_qwen2_5) / "model.safetensors")
    del start["lm_head.weight"]  # tied to the embeddings
    assert {name: value.shape for name, value in saved.items()} == {name: v.shape for name, v in start.items()}
    assert load_model(str(runs / "straight" / "model")).num_parameters() > 0
    end = {name.rpartition("layers.")[2]: value for name, value in ranks("straight")[0].end.items()}
    compared = [name for name in saved if "model.layers." in name]
    assert len(compared) > 20
    for name in compared:
        assert (saved[name] - end[name.rpartition("layers.")[2]]).abs().max() < 1e-6
