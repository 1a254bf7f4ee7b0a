"""Short GRPO runs: what changes, what is logged, and that a resumed run is the same run."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig

from invert_rl.grpo.trainer import InvertGRPOTrainer


def parameters(trainer: InvertGRPOTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], part: str = "") -> list[str]:
    return [name for name in before if part in name and not torch.equal(before[name], after[name])]


def test_two_steps_change_language_and_vision(make_trainer, tiny_checkpoint):
    trainer = make_trainer(tiny_checkpoint)
    before = parameters(trainer)
    trainer.train()
    after = parameters(trainer)
    assert len(changed(before, after, "visual.")) > 0.9 * sum("visual." in name for name in before)
    assert len(changed(before, after, "language_model.")) > 0.9 * sum("language_model." in name for name in before)


def test_lora_changes_only_adapters(make_trainer, tiny_checkpoint):
    trainer = make_trainer(tiny_checkpoint, beta=0.04, peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    before = parameters(trainer)
    trainer.train()
    moved = changed(before, parameters(trainer))
    assert moved
    assert all("lora_" in name for name in moved)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
def test_rounds_larger_than_a_step_with_kl(make_trainer, tiny_qwen2_5, loss_type):
    trainer = make_trainer(
        tiny_qwen2_5,
        loss_type=loss_type,
        beta=0.04,
        num_iterations=2,
        gradient_accumulation_steps=2,
        steps_per_generation=4,
        max_steps=4,
        tasks=["tvg"],
    )
    trainer.train()
    kl = [log["kl"] for log in trainer.state.log_history if "kl" in log]
    assert len(kl) == 4
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[-1] > 1e-6
    rollouts = [log for log in trainer.state.log_history if "time/rollout" in log]
    assert len(rollouts) == 1  # one round serves all four optimizer steps


def test_logs_per_task_rewards_and_parts_of_a_step(make_trainer, tiny_qwen2_5):
    trainer = make_trainer(tiny_qwen2_5, tasks=["tvg", "ar"], tvg_probability=0.0, max_steps=1, beta=0.04)
    trainer.train()
    log = trainer.state.log_history[0]
    assert math.isfinite(log["ar/reward"])
    assert log["ar/valid_answers"] == 0.0  # random weights write no answer tag
    assert not any(name.startswith("tvg/") for name in log)
    assert "rewards/tvg_only/mean" not in log  # no row of its task
    for part in ("decode", "rollout", "score", "reward", "update"):
        assert log[f"time/{part}"] > 0
    assert log["data/replaced"] == 0


@pytest.mark.parametrize("lora", [False, True])
def test_resume_is_exact(make_trainer, tiny_checkpoint, tmp_path, lora):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "warmup_steps": 1}
    if lora:
        settings["peft_config"] = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    straight = make_trainer(tiny_checkpoint, str(tmp_path / "straight"), **settings)
    straight.train()
    resumed = make_trainer(tiny_checkpoint, str(tmp_path / "resumed"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-3"))
    assert changed(parameters(straight), parameters(resumed)) == []
    start = make_trainer(tiny_checkpoint, str(tmp_path / "start"), **settings)
    assert changed(parameters(start), parameters(resumed))


def test_resume_over_an_epoch_boundary(make_trainer, tiny_qwen2_5, rows, tmp_path):
    settings = {"rows": rows[:3], "max_steps": 8, "save_strategy": "steps", "save_steps": 5}
    straight = make_trainer(tiny_qwen2_5, str(tmp_path / "straight"), **settings)
    straight.train()
    assert straight.state.epoch > 2
    resumed = make_trainer(tiny_qwen2_5, str(tmp_path / "resumed"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-5"))
    assert changed(parameters(straight), parameters(resumed)) == []


def test_saving_in_the_middle_of_a_round_is_refused(make_trainer, tiny_qwen2_5):
    with pytest.raises(ValueError, match="save_steps .3. must be a multiple of the 2"):
        make_trainer(tiny_qwen2_5, num_iterations=2, save_strategy="steps", save_steps=3)


def test_every_row_is_scored_with_its_own_video(make_trainer, tiny_qwen2_5):
    """TRL shuffles a round before it is cut into micro-batches; prompts and videos must be shuffled along."""
    trainer = make_trainer(
        tiny_qwen2_5,
        tasks=["tvg"],
        gradient_accumulation_steps=2,
        steps_per_generation=4,
        num_iterations=1,
        max_steps=4,
        keep_groups=False,
    )
    compute, seen = trainer._compute_loss, []

    def check(model, inputs):
        for ids, mask, prompt in zip(
            inputs["prompt_ids"], inputs["prompt_mask"], inputs["encoded_prompts"], strict=True
        ):
            assert ids[mask.bool()].tolist() == prompt.input_ids
            seen.append(prompt.pixel_values_videos.sum().item())
        return compute(model, inputs)

    trainer._compute_loss = check
    trainer.train()
    assert len(seen) == 32
    assert len(set(seen)) > 2
    assert any(a != b for a, b in zip(seen[:4], seen[1:4], strict=False))  # groups are indeed mixed
