"""The four supervised recipes: each of transformers' options is heeded, refused, or said to do nothing."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from invert_rl.actionvlm.config import ActionVLMArguments
from invert_rl.llavaction.config import LLaVActionConfig
from invert_rl.psftr.settings import PSFTRArguments
from invert_rl.tal.training import SupervisedArguments, SupervisedTrainer
from invert_rl.wtal.config import WtalArguments
from tests.invert_rl.grpo.test_options import another

PAGE = Path(__file__).resolve().parents[3] / "docs" / "training.md"
RECIPES: list[type[SupervisedArguments]] = [ActionVLMArguments, LLaVActionConfig, PSFTRArguments, WtalArguments]


def made(recipe: type[SupervisedArguments], folder: Path, **given: object) -> SupervisedArguments:
    return recipe(**{"output_dir": str(folder), "use_cpu": True, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_field_is_in_exactly_one_place(recipe):
    names = recipe.OPTIONS.names()
    assert {item.name for item in fields(TrainingArguments)} <= set(names)
    assert max(Counter(names).values()) == 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_refused_options_say_why(recipe, tmp_path):
    made(recipe, tmp_path)
    for item in fields(recipe):
        if item.name in recipe.OPTIONS.refused:
            with pytest.raises(ValueError, match=rf"^{item.name} \(") as refusal:
                made(recipe, tmp_path, **{item.name: another(item)})
            assert recipe.OPTIONS.refused[item.name] in str(refusal.value)


@pytest.mark.parametrize("recipe", RECIPES)
def test_options_without_effect_are_told_and_documented(recipe, tmp_path, caplog):
    for item in fields(recipe):
        if item.name in recipe.OPTIONS.no_effect:
            with caplog.at_level(logging.WARNING):
                made(recipe, tmp_path, **{item.name: another(item)})
            assert f"{item.name} has no effect" in caplog.text
            assert f"`{item.name}`" in PAGE.read_text()


BAD = {
    "optim": ["nonsense", "galore_adamw", "lomo"],
    "optim_args": ["nonsense=1"],
    "learning_rate": [-1.0],
    "lr_scheduler_type": ["sometimes", "reduce_lr_on_plateau"],
    "lr_scheduler_kwargs": [{"nonsense": 1}],
    "report_to": ["nowhere"],
    "save_strategy": ["best", "always"],
    "save_steps": [-1],
    "seed": [-1],
    "per_device_train_batch_size": [0],
    "gradient_accumulation_steps": [0],
    "accelerator_config": [{"dispatch_batches": True}, {"split_batches": True}],
    "max_steps": [0, -2],
    "num_train_epochs": [0, -1],
    "adam_beta1": [1.0],
    "logging_steps": [0],
    "save_total_limit": [0],
    "max_grad_norm": [-1.0],
    "warmup_steps": [-1],
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("recipe", RECIPES)
def test_values_that_would_end_a_run_are_refused_at_once(recipe, name, tmp_path):
    for value in BAD[name]:
        with pytest.raises(ValueError):
            made(recipe, tmp_path, **{name: value})


def test_a_warmup_that_a_constant_rate_ignores_is_told_and_wtal_counts_no_epochs(tmp_path, caplog):
    made(PSFTRArguments, tmp_path, warmup_steps=10)
    assert "warmup_steps has no effect with lr_scheduler_type constant" in caplog.text
    with pytest.raises(ValueError, match="max_steps must be a positive"):
        made(WtalArguments, tmp_path, max_steps=-1)


@pytest.mark.parametrize("recipe", [ActionVLMArguments, PSFTRArguments, WtalArguments])
def test_a_launcher_that_shards_is_refused_where_nothing_was_tried_on_shards(recipe, tmp_path, monkeypatch):
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        with monkeypatch.context() as patched, pytest.raises(ValueError, match="never run on a sharded model"):
            patched.setenv(name, "true")
            made(recipe, tmp_path)


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"optim": "sgd"}, "momentum", 0),
        ({"adam_beta1": 0.5}, "betas", (0.5, 0.999)),
        ({"adam_epsilon": 1e-3}, "eps", 1e-3),
        ({"optim": "rmsprop", "optim_args": "alpha=0.5"}, "alpha", 0.5),
    ],
)
def test_what_is_passed_on_reaches_the_optimizer(given, name, value, tmp_path):
    args = SupervisedArguments(output_dir=str(tmp_path), use_cpu=True, max_steps=1, **given)
    layer = torch.nn.Linear(2, 1)
    groups = [{"params": list(layer.parameters()), "lr": 0.25}]
    trainer = SupervisedTrainer(layer, lambda step, part: {}, args, groups)
    assert trainer.create_optimizer().param_groups[0][name] == value
    assert trainer.optimizer is not None and trainer.optimizer.param_groups[0]["lr"] == 0.25
