"""FSDP2 on two CPU ranks with a reference model, with adapters and with a frozen tower: the run of one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from invert_rl.grpo.round_state import REFERENCE
from invert_rl.models import load_model
from tests.invert_rl.grpo import two_ranks
from tests.invert_rl.grpo.torchrun import Rank, Weights, distance, read_ranks, run_ranks

pytestmark = pytest.mark.slow

PLAIN = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 4}
FOLLOWING = {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5}
SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "learning_rate": 1e-3}

JOBS = {
    "reference": {"settings": {**PLAIN, "beta": 0.5}},
    "lora": {"settings": {**PLAIN, "learning_rate": 1.0, "beta": 0.5}, "lora": True, "save_model": True},
    "tower": {"settings": {**PLAIN, "freeze_vision": True}, "save_model": True},
}
"""Each of these is made by one process, too."""


@pytest.fixture(scope="module")
def runs(tiny_qwen2_5, world, tmp_path_factory) -> Callable[[str], list[Rank]]:
    """What the ranks of a run saw, by its name; one process's runs are called ``…_alone``."""
    folder: Path = tmp_path_factory.mktemp("parts")
    start = {"checkpoint": tiny_qwen2_5, "world": str(world), "fsdp": True}
    jobs = {
        **JOBS,
        "one_loads": {**JOBS["reference"], "fsdp": "one loads"},
        "followed": {"settings": {**FOLLOWING, **SAVING}},
        "resumed": {
            "settings": {**FOLLOWING, **SAVING},
            "resume": str(folder / "followed" / "checkpoint-2"),
        },
    }
    run_ranks(folder, [{**start, **job, "output": str(folder / name)} for name, job in jobs.items()])
    for name, job in JOBS.items():
        settings = {**job["settings"], "per_device_train_batch_size": 4}
        two_ranks.main({**start, **job, "fsdp": False, "settings": settings, "output": str(folder / f"{name}_alone")})

    def ranks(name: str) -> list[Rank]:
        return read_ranks(folder / name, 1 if name.endswith("_alone") else 2)

    ranks.folder = folder
    return ranks


def moved(run: Rank, wanted: Callable[[str], bool]) -> float:
    """The share of numbers that changed, among parameters whose names are wanted."""
    changed: list[torch.Tensor] = [(run.end[name] != run.start[name]).flatten() for name in run.end if wanted(name)]
    return torch.cat(changed).double().mean().item()


def in_layers(name: str) -> bool:
    return ".layers." in name


def in_tower(name: str) -> bool:
    return "visual." in name


@pytest.mark.parametrize("name", ["reference", "one_loads"])
def test_the_reference_is_sharded_by_layer(runs, name):
    """Not as one unit, which every forward would gather whole."""
    for rank in runs(name):
        layers = {unit.rpartition("layers.")[2] for unit in rank.reference_units if "layers." in unit}
        assert layers == {"0", "1"}
        assert sum("visual.blocks." in unit for unit in rank.reference_units) >= 1


@pytest.mark.parametrize("name", ["reference", "one_loads"])
def test_kl_is_that_of_one_process(runs, name):
    """``one_loads``: the first rank alone reads the weights, as recipes/configs/accelerate/8gpu_fsdp2.yaml has it."""
    (alone,) = runs("reference_alone")
    assert max(alone.kl) > 1e-4, "a policy that stays where it is proves nothing"
    for rank in runs(name):
        assert rank.kl == pytest.approx(alone.kl, rel=1e-3, abs=1e-7)
        assert distance(rank.end, alone.end) < 1e-6


def test_a_reference_that_follows_the_policy_resumes_exactly(runs):
    straight, resumed = runs("followed")[0], runs("resumed")[0]
    assert resumed.rounds == straight.rounds[2:]
    assert resumed.kl[2:] == straight.kl[2:]
    assert distance(straight.end, resumed.end) == 0
    held: list[Weights] = [load_file(runs.folder / "followed" / f"checkpoint-{step}" / REFERENCE) for step in (2, 4)]
    assert distance(*held) > 1e-5


@pytest.mark.parametrize(
    ("name", "trained", "still"),
    [
        ("lora", lambda name: "lora_" in name, lambda name: "lora_" not in name),
        ("tower", in_layers, in_tower),
    ],
)
def test_what_is_trained_moves_and_what_is_frozen_does_not(runs, name, trained, still):
    (alone,) = runs(f"{name}_alone")
    for rank in runs(name):
        assert moved(rank, trained) > 0.9
        assert moved(rank, still) == 0
        assert distance(rank.end, alone.end) < 1e-6
    assert distance(alone.start, alone.end) > 1e-4


@pytest.mark.parametrize("name", ["lora", "tower"])
def test_the_model_loads_after_it(runs, name):
    saved = load_model(str(runs.folder / name / "model"))
    other = load_model(str(runs.folder / f"{name}_alone" / "model"))
    assert distance(dict(saved.state_dict()), dict(other.state_dict())) < 1e-6
