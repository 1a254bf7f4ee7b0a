"""Short GRPO runs: what changes, what is logged, and that a resumed run is the same run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from data_prep.errors import DataError
from invert_rl.grpo.round_state import load_round_state
from invert_rl.grpo.trainer import InvertGRPOTrainer
from invert_rl.loading import CheckpointError


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


def test_wandb_and_tensorboard_take_the_log_with_completions_and_validation(make_trainer, tiny_qwen2_5, monkeypatch):
    """Offline; wandb's table refuses whatever is no text."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = pytest.importorskip("wandb")
    logged = []
    trainer = make_trainer(
        tiny_qwen2_5, report_to=["wandb", "tensorboard"], log_completions=True, eval_strategy="steps", eval_steps=2
    )
    monkeypatch.setenv("WANDB_DIR", str(trainer.args.output_dir))
    trainer.validation = lambda trainer: {"mIoU": 12.5}
    log = wandb.Run.log

    def spy(run, data, *args, **kwargs):
        logged.append(data)
        return log(run, data, *args, **kwargs)

    monkeypatch.setattr(wandb.Run, "log", spy)
    trainer.train()
    wandb.finish()
    tables = [data["completions"] for data in logged if "completions" in data]
    assert len(tables) >= 2
    assert "prompt" in tables[0].columns
    assert any(data.get("eval/mIoU") == 12.5 for data in logged)
    assert list(Path(str(trainer.args.output_dir)).rglob("events.out.tfevents*"))


def equal_but_some(teaching: set[str]):
    """A reward in which only the completions of some rows differ."""

    def reward(completion_ids, id, **columns):
        return [
            sum(t % 2 == 0 for t in ids) / len(ids) if row in teaching else 0.5
            for ids, row in zip(completion_ids, id, strict=True)
        ]

    return reward


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_groups_that_teach_nothing_are_refilled(make_trainer, tiny_qwen2_5, rows, beta, tmp_path):
    teaching = {row.id for row in rows[:5]}
    settings = {
        "tasks": ["tvg"],
        "per_device_train_batch_size": 8,
        "max_steps": 4,
        "beta": beta,
        "max_completion_length": 12,
    }
    shares = {}
    for refill in (0, 3):
        trainer = make_trainer(
            tiny_qwen2_5,
            str(tmp_path / str(refill)),
            refill_groups=refill,
            **settings,
            reward_funcs=[equal_but_some(teaching)],
        )
        trainer.train()
        logs = [log for log in trainer.state.log_history if "tvg/zero_variance" in log]
        assert len(logs) == 4
        shares[refill] = [log["tvg/zero_variance"] for log in logs]
        refilled = [log.get("data/refilled", 0.0) for log in logs]
        assert (sum(refilled) > 0) == (refill > 0)
        assert all(len(trainer._draws) == 8 for _ in logs)
        assert logs[-1]["num_tokens"] < 4 * 8 * 700  # a scoring that was thrown away is not counted
    assert sum(shares[0]) > 0
    assert sum(shares[3]) < sum(shares[0])


def test_refilled_runs_resume_exactly(make_trainer, tiny_qwen2_5, rows, tmp_path):
    teaching = {row.id for row in rows[:4]}
    settings = {"tasks": ["tvg"], "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "refill_groups": 2}
    settings |= {"per_device_train_batch_size": 8}
    runs = []
    for name, resume in (("straight", None), ("resumed", str(tmp_path / "straight" / "checkpoint-2"))):
        trainer = make_trainer(tiny_qwen2_5, str(tmp_path / name), **settings, reward_funcs=[equal_but_some(teaching)])
        trainer.train(resume_from_checkpoint=resume)
        runs.append(parameters(trainer))
    assert changed(*runs) == []


def test_equal_groups_left_over_give_no_kl_unless_asked(make_trainer, tiny_qwen2_5, rows, tmp_path):
    """All rewards equal, a reference that is not the policy: the gradient is zero, or that of the KL."""
    norms = {}
    for keep in (False, True):
        trainer = make_trainer(
            tiny_qwen2_5,
            str(tmp_path / str(keep)),
            beta=0.5,
            refill_groups=1,
            keep_kl_of_equal_groups=keep,
            max_steps=1,
            tasks=["tvg"],
            reward_funcs=[equal_but_some(set())],
        )
        with torch.no_grad():
            for value in trainer.ref_model.parameters():
                value.mul_(1.1)
        trainer.train()
        norms[keep] = trainer.state.log_history[0]["grad_norm"]
    assert norms[False] == 0.0
    assert norms[True] > 1e-4


def test_rewards_by_task_are_weighted_and_leave_out_what_nothing_scored(make_trainer, tiny_qwen2_5):
    def halves(completions, **columns):
        return [None if place % 2 else 1.0 for place in range(len(completions))]

    def tens(completions, **columns):
        return [None if place % 2 else 2.0 for place in range(len(completions))]

    trainer = make_trainer(
        tiny_qwen2_5, tasks=["tvg"], max_steps=1, reward_funcs=[halves, tens], reward_weights=[1.0, 10.0]
    )
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["tvg/reward"] == log["reward"] == 21.0
    assert log["tvg/zero_variance"] == 1.0
    assert log["tvg/tokens_per_second"] > 0
    assert log["tvg/clip_ratio"] == 0.0


def test_every_optimizer_step_of_a_round_has_every_group(make_trainer, tiny_qwen2_5):
    trainer = make_trainer(
        tiny_qwen2_5,
        tasks=["tvg"],
        steps_per_generation=3,
        gradient_accumulation_steps=1,
        num_generations=6,
        per_device_train_batch_size=4,
        max_steps=3,
    )
    compute, seen = trainer._compute_loss, []

    def check(model, inputs):
        seen.append(len({id(prompt) for prompt in inputs["encoded_prompts"]}))
        return compute(model, inputs)

    trainer._compute_loss = check
    trainer.train()
    assert seen == [2, 2, 2]


def test_a_reference_that_follows_the_policy_resumes_exactly(make_trainer, tiny_qwen2_5, tmp_path):
    settings = {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5}
    settings |= {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    straight = make_trainer(tiny_qwen2_5, str(tmp_path / "straight"), **settings)
    straight.train()
    resumed = make_trainer(tiny_qwen2_5, str(tmp_path / "resumed"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    assert changed(parameters(straight), parameters(resumed)) == []
    references = [dict(t.ref_model.named_parameters()) for t in (straight, resumed)]
    assert all(torch.equal(value, references[1][name]) for name, value in references[0].items())
    path = tmp_path / "straight" / "checkpoint-2" / "reference.safetensors"
    whole = path.read_bytes()
    for damaged, message in (
        (whole[: len(whole) // 2], "reference.safetensors: cannot be loaded: .*a damaged file of weights"),
        (whole.replace(b"k_proj", b"x_proj"), "reference.safetensors: its tensors do not fit .*missing: .*k_proj"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=message):
            load_round_state(resumed, path.parent)
    path.unlink()
    (tmp_path / "straight" / "checkpoint-2" / "files.json").unlink(missing_ok=True)
    with pytest.raises(DataError, match="would start again from the first reference"):
        make_trainer(tiny_qwen2_5, str(tmp_path / "no"), **settings).train(
            resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2")
        )


def test_saving_or_resuming_in_the_middle_of_a_round_is_refused_however_it_is_said(
    make_trainer, tiny_qwen2_5, tmp_path
):
    rounds = {"num_iterations": 2, "save_strategy": "steps"}
    with pytest.raises(ValueError, match="save_steps .3. must be a multiple of the 2"):
        make_trainer(tiny_qwen2_5, save_steps=0.5, max_steps=6, **rounds)
    with pytest.raises(ValueError, match="known only with max_steps"):
        make_trainer(tiny_qwen2_5, save_steps=0.5, max_steps=-1, **rounds)
    first = make_trainer(tiny_qwen2_5, str(tmp_path / "a"), max_steps=3, save_steps=2, **rounds)
    first.train()  # saved at its end, step 3
    longer = make_trainer(tiny_qwen2_5, str(tmp_path / "b"), max_steps=6, save_steps=2, **rounds)
    with pytest.raises(DataError, match="step 3 lies in the middle of a generation round of 2"):
        longer.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))


def test_rollouts_and_scoring_run_without_dropout(make_trainer, tiny_qwen2_5):
    """At a learning rate of 0 dropout in the adapters changes nothing in what is sampled or scored without gradient."""
    seen = []
    for dropout in (0.0, 0.5):
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=dropout, init_lora_weights=False)
        trainer = make_trainer(
            tiny_qwen2_5, peft_config=config, beta=0.04, learning_rate=0.0, max_steps=2, num_iterations=2, tasks=["tvg"]
        )
        generate = trainer._generate_and_score_completions
        seen.append([])

        def spy(inputs, generate=generate, seen=seen[-1]):
            output = generate(inputs)
            seen.append(
                (output["completion_ids"].tolist(), output["old_per_token_logps"], output["ref_per_token_logps"])
            )
            return output

        trainer._generate_and_score_completions = spy
        trainer.train()
    for without, with_dropout in zip(*seen, strict=True):
        assert without[0] == with_dropout[0]
        assert torch.equal(without[1], with_dropout[1])
        assert torch.equal(without[2], with_dropout[2])


def test_online_difficulty_is_a_function_of_the_rounds_before(make_trainer, tiny_qwen2_5, rows, tmp_path):
    """Rows that are always solved come up less often, in the resumed run as in the one that was never stopped."""
    easy = {row.id for row in rows[: len(rows) // 2]}

    def reward(completion_ids, id, **columns):
        return [1.0 if row in easy else float(place % 2) for place, row in enumerate(id)]

    settings = {"tasks": ["tvg"], "online_difficulty": True, "per_device_train_batch_size": 8, "learning_rate": 1e-5}
    settings |= {"max_steps": 12, "save_strategy": "steps", "save_steps": 6, "max_completion_length": 2}
    runs = []
    for name, resume in (("straight", None), ("resumed", str(tmp_path / "straight" / "checkpoint-6"))):
        trainer = make_trainer(tiny_qwen2_5, str(tmp_path / name), **settings, reward_funcs=[reward])
        trainer.train(resume_from_checkpoint=resume)
        runs.append((parameters(trainer), trainer.solve_rates.notes))
    assert changed(runs[0][0], runs[1][0]) == []
    assert runs[0][1] == runs[1][1]
