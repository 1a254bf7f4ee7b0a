"""What is trained is float32 whatever the checkpoint was loaded in, on one process, DDP and FSDP2 alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from tests.invert_rl.grpo import two_ranks
from tests.invert_rl.grpo.torchrun import Rank, Weights, read_ranks, run_ranks

SMALL_STEPS = {"learning_rate": 1e-6, "bf16": True, "max_steps": 4, "beta": 0.04}
VALIDATED = {"eval_strategy": "steps", "eval_steps": 2, "eval_batch_size": 1, "keep_best": "eval/mIoU"}
"""The field's learning rate for full fine-tuning: a thousandth of what bfloat16 resolves at weights of usual size."""


LAUNCHERS = ("alone", "ddp", "fsdp2")


@pytest.fixture(scope="module")
def runs(tiny_qwen2_5, world, tmp_path_factory) -> dict[str, Rank]:
    """The same run from a checkpoint loaded in bfloat16, by one process, by DDP and by FSDP2."""
    folder: Path = tmp_path_factory.mktemp("precision")
    job = {"checkpoint": tiny_qwen2_5, "world": str(world), "dtype": "bfloat16", "validate": 3}
    job["settings"] = {**SMALL_STEPS, **VALIDATED}
    run_ranks(
        folder,
        [{**job, "output": str(folder / "ddp")}, {**job, "output": str(folder / "fsdp2"), "fsdp": True}],
    )
    two_ranks.main(
        {**job, "settings": {**job["settings"], "per_device_train_batch_size": 4}, "output": str(folder / "alone")}
    )
    return {name: read_ranks(folder / name, 1 if name == "alone" else 2)[0] for name in LAUNCHERS}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_evaluates_before_during_and_after(runs, launcher):
    """On shards as well, where one rank has no prompt left in some batches; all rows of all tasks count."""
    found, alone = runs[launcher].metrics, runs["alone"].metrics
    assert found["before"].keys() == found["after"].keys() == alone["before"].keys()
    assert {"mIoU", "VC", "AR", "VD", "unparsable"} <= found["before"].keys()
    assert [entry["step"] for entry in found["during"]] == [2, 4]
    assert {f"eval/{name}" for name in found["before"]} <= found["during"][0].keys()
    assert found["before"]["n"] == alone["before"]["n"]


def update(run: Rank) -> Weights:
    return {name: run.end[name].double() - run.start[name].double() for name in run.end}


def flat(weights: Weights) -> torch.Tensor:
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_small_steps_move_nearly_all_weights(runs, launcher):
    run = runs[launcher]
    assert {str(value.dtype) for value in run.end.values()} == {"torch.float32"}
    assert run.optimizer_dtypes == ["torch.float32"]
    moved = flat(update(run))
    assert (moved != 0).double().mean() > 0.9
    assert moved.abs().max() < 4.5e-6


@pytest.mark.parametrize("launcher", ["ddp", "fsdp2"])
def test_launchers_make_the_same_update(runs, launcher):
    one, two = flat(update(runs["alone"])), flat(update(runs[launcher]))
    assert torch.cosine_similarity(one, two, dim=0) > 0.99


def dtypes_of(trainer) -> dict[str, set[torch.dtype]]:
    """Precisions of the trained, the frozen and the reference's parameters."""
    trained = {p.dtype for p in trainer.model.parameters() if p.requires_grad}
    frozen = {p.dtype for p in trainer.model.parameters() if not p.requires_grad}
    reference = set() if trainer.ref_model is None else {p.dtype for p in trainer.ref_model.parameters()}
    return {"trained": trained, "frozen": frozen, "reference": reference}


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("part", ["whole", "language", "lora"])
def test_what_is_frozen_and_the_reference_stay_as_loaded(make_trainer, tiny_checkpoint, part, share):
    settings = {"freeze_vision": part == "language", "share_prompts": share, "vision_memory_mb": 0}
    if part == "lora":
        settings["peft_config"] = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    trainer = make_trainer(tiny_checkpoint, dtype="bfloat16", bf16=True, beta=0.04, **settings)
    half, full = torch.bfloat16, torch.float32
    expected = {
        "whole": {"trained": {full}, "frozen": set(), "reference": {half}},
        "language": {"trained": {full}, "frozen": {half}, "reference": {half}},
        "lora": {"trained": {full}, "frozen": {half}, "reference": set()},
    }[part]
    assert dtypes_of(trainer) == expected
    trainer.train()
    assert dtypes_of(trainer) == expected
    kl = [log["kl"] for log in trainer.state.log_history if "kl" in log]
    assert abs(kl[0]) < 1e-4


def test_without_autocast_policy_and_reference_compute_in_float32(make_trainer, tiny_qwen2_5):
    trainer = make_trainer(tiny_qwen2_5, dtype="bfloat16", bf16=False, beta=0.04)
    assert dtypes_of(trainer) == {"trained": {torch.float32}, "frozen": set(), "reference": {torch.float32}}
    trainer.train()
    assert trainer.state.log_history[0]["kl"] == pytest.approx(0, abs=1e-6)


def test_resume_with_a_frozen_tower_in_bfloat16_is_exact(make_trainer, tiny_checkpoint, tmp_path):
    settings = {"dtype": "bfloat16", "bf16": True, "freeze_vision": True, "max_steps": 4}
    settings |= {"save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-6}
    straight = make_trainer(tiny_checkpoint, str(tmp_path / "straight"), **settings)
    straight.train()
    resumed = make_trainer(tiny_checkpoint, str(tmp_path / "resumed"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    after = dict(resumed.model.named_parameters())
    for name, value in straight.model.named_parameters():
        assert value.dtype == after[name].dtype
        assert torch.equal(value, after[name]), name
