"""Every option of TRL's and transformers' settings is heeded, refused or documented; bad values never reach a model."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from dataclasses import MISSING, fields
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLConfig, TrainingArguments
from trl import GRPOConfig, ModelConfig, SFTConfig

from data_prep.errors import DataError
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.grpo.options import GRPO, check_for_model
from invert_rl.options import TRAINING, Options, check_model_options
from invert_rl.sft.config import InvertSFTConfig
from invert_rl.sft.options import SFT
from invert_rl.task_data import check_toy_settings
from tests.invert_rl.tiny_run import SHORT_RUN

PAGE = Path(__file__).resolve().parents[3] / "docs" / "training.md"
TABLES = {"TrainingArguments": (TrainingArguments, TRAINING), "GRPOConfig": (GRPOConfig, GRPO), "SFT": (SFTConfig, SFT)}


@pytest.mark.parametrize("name", TABLES)
def test_every_field_is_in_exactly_one_place(name):
    """Fails when an installed version adds a field: decide what becomes of it. An older one may lack some."""
    settings, options = TABLES[name]
    assert {item.name for item in fields(settings)} <= set(options.names())
    assert max(Counter(options.names()).values()) == 1


def another(item) -> object:
    """A value that a field does not have by default."""
    default = item.default if item.default_factory is MISSING else item.default_factory()
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default + 1
    if default is None and "bool" in str(item.type):
        return True
    if default is None and "int" in str(item.type):
        return 3
    if default is None and "dict" in str(item.type):
        return {"a": 1}
    if isinstance(default, list):
        return [*default, "x"]
    return "x"


OURS = {"GRPOConfig": InvertGRPOConfig, "SFT": InvertSFTConfig}


def config_of(name: str, tmp_path: Path, **settings):
    common = {**SHORT_RUN, "output_dir": str(tmp_path)}
    if name == "GRPOConfig":
        common |= {"num_generations": 4, "per_device_train_batch_size": 4}
    return OURS[name](**{**common, **settings})


def cases(kind: str) -> list[tuple[str, str]]:
    return [
        (name, item.name)
        for name in ("GRPOConfig", "SFT")
        for item in fields(TABLES[name][0])
        if item.name in getattr(TABLES[name][1], kind)
    ]


@pytest.mark.parametrize(("name", "field"), cases("refused"))
def test_refused_options_say_why(name, field, tmp_path):
    options = TABLES[name][1]
    item = next(item for item in fields(OURS[name]) if item.name == field)
    with pytest.raises(ValueError, match=rf"{field} \(") as refusal:
        config_of(name, tmp_path, **{field: another(item)})
    assert options.refused[field] in str(refusal.value)


@pytest.mark.parametrize(("name", "field"), cases("no_effect"))
def test_options_without_effect_are_told_and_documented(name, field, tmp_path, caplog):
    item = next(item for item in fields(OURS[name]) if item.name == field)
    with caplog.at_level(logging.WARNING):
        config_of(name, tmp_path, **{field: another(item)})
    assert f"{field} has no effect" in caplog.text
    assert f"`{field}`" in PAGE.read_text()


BAD = {
    "loss_type": "grop",
    "scale_rewards": "goup",
    "importance_sampling_level": "sequences",
    "multi_objective_aggregation": "sum",
    "vllm_importance_sampling_mode": "tokens",
    "vllm_mode": "colocated",
    "max_completion_length": None,
    "cache_implementation": "static",
    "temperature": 0.0,
    "top_p": 1.5,
    "min_p": -0.1,
    "beta": -1.0,
    "sync_ref_model": True,  # without a reference
    "remove_unused_columns": True,
    "accelerator_config": {"dispatch_batches": True},
    "lr_scheduler_type": "reduce_lr_on_plateau",
    "lr_scheduler_kwargs": {"nonsense": 1},
    "optim": "paged_adamw_33bit",
    "optim_args": "nonsense=1",
    "report_to": ["nowhere"],
    "keep_best": "eval/mIoU",  # without eval_strategy
    "enable_jit_checkpoint": True,
    "shuffle_dataset": False,
    "save_strategy": "best",
    "load_best_model_at_end": True,
    "fp16": True,  # and bf16
    "seed": -1,
    "save_steps": -1,
    "gradient_accumulation_steps": 0,
    "activation_checkpointing_kwargs": {"reentrant": False},
}
GENERATION = {
    "temperature": (0.5, "--temperature"),
    "max_new_tokens": (99, "--max_completion_length"),
    "num_return_sequences": (2, "--num_generations"),
    "num_beams": (4, "not supported"),
    "stop_strings": (["x"], "not supported"),
    "typical_p": (0.5, "not supported"),
    "cache_implementation": ("static", "not supported"),
}


BAD_GENERATION = [
    {"min_new_tokens": -1},
    {"min_new_tokens": "abc"},
    {"min_new_tokens": 5000},
    {"suppress_tokens": "abc"},
    {"suppress_tokens": [-1]},
    {"bad_words_ids": [1]},
    {"bad_words_ids": []},
    {"no_repeat_ngram_size": -2},
    {"exponential_decay_length_penalty": [1]},
    {"sequence_bias": 3},
    {"remove_invalid_values": "maybe"},
    {"do_sample": False},
    [1],
]


@pytest.mark.parametrize("given", BAD_GENERATION)
def test_generation_settings_that_rollouts_would_end_on_are_refused(given, tmp_path):
    name = next(iter(given)) if isinstance(given, dict) else ""
    with pytest.raises(ValueError, match=rf"generation_kwargs\.?{name}.* (must be|is above)"):
        config_of("GRPOConfig", tmp_path, generation_kwargs=given)


def test_tokens_that_the_model_has_not_are_refused(tmp_path):
    args = config_of("GRPOConfig", tmp_path, generation_kwargs={"suppress_tokens": [3, 10**8]})
    with pytest.raises(DataError, match="no token 100000000"):
        check_for_model(args, ModelConfig(), Qwen2_5_VLConfig())


@pytest.mark.parametrize("name", ["eval_data", "video_root", "manifest"])
def test_files_of_a_run_are_not_forgotten_in_the_toy_world(tmp_path, name):
    with pytest.raises(DataError, match=f"--{name} needs --train_data"):
        check_toy_settings(config_of("GRPOConfig", tmp_path, **{name: "x"}))


@pytest.mark.parametrize("field", BAD)
def test_values_that_would_end_a_run_are_refused_at_once(field, tmp_path):
    extra = {"bf16": True} if field == "fp16" else {}
    shown = {"accelerator_config": "dispatch_batches", "optim": "paged_adamw_33bit", "report_to": "nowhere"}
    with pytest.raises(ValueError, match=shown.get(field, field)):
        config_of("GRPOConfig", tmp_path, **{field: BAD[field], **extra})


@pytest.mark.parametrize("name", GENERATION)
def test_generation_settings_that_scoring_would_not_know_are_refused(name, tmp_path):
    value, reason = GENERATION[name]
    with pytest.raises(ValueError, match=rf"generation_kwargs\.{name}.*{reason}"):
        config_of("GRPOConfig", tmp_path, generation_kwargs={name: value})


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"lora_r": 64}, "lora_r has no effect without --use_peft"),
        ({"use_dora": True}, "use_dora has no effect without --use_peft"),
        ({"use_peft": True, "use_bnb_nested_quant": True}, "without --load_in_4bit"),
        ({"dtype": "bf16"}, "dtype: invalid choice"),
    ],
)
def test_model_options_that_would_be_ignored_are_refused(given, reason):
    with pytest.raises(ValueError, match=reason):
        check_model_options(ModelConfig(**given))


def test_what_is_passed_on_reaches_its_place(tmp_path):
    args = config_of(
        "GRPOConfig", tmp_path, num_completions_to_print=3, prompts_logged=1, data_seed=11, report_to="tensorboard"
    )
    assert args.num_completions_to_print == 3
    assert args.schedule().seed == 11
    assert args.report_to == ["tensorboard"]
    assert config_of("GRPOConfig", tmp_path, prompts_logged=2).num_completions_to_print == 2
    assert config_of("GRPOConfig", tmp_path, scale_rewards=True).scale_rewards == "group"


def test_a_table_that_forgets_a_field_is_noticed():
    options = Options(list(TRAINING.passed_on)[1:], TRAINING.refused, TRAINING.no_effect)
    assert not {item.name for item in fields(TrainingArguments)} <= set(options.names())


def test_tokens_that_the_user_bans_join_those_that_are_never_sampled(make_trainer, tiny_qwen2_5):
    trainer = make_trainer(tiny_qwen2_5, generation_kwargs={"suppress_tokens": [5, 7]})
    assert {5, 7, *trainer.banned_ids} <= set(trainer.generation_config.suppress_tokens)
    trainer.train()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"cast_lm_head_to_fp32": True}, "head is its embedding"),
        ({"router_aux_loss_coef": 0.1}, "no experts"),
        ({"sync_ref_model": True, "beta": 0.1}, "stays as it is"),
    ],
)
def test_options_that_do_not_go_with_the_checkpoint_are_refused_before_its_weights_load(tmp_path, given, reason):
    config = Qwen2_5_VLConfig(text_config={"tie_word_embeddings": True}, tie_word_embeddings=True)
    with pytest.raises(DataError, match=reason):
        check_for_model(config_of("GRPOConfig", tmp_path, **given), ModelConfig(use_peft=True), config)


def test_the_reference_has_the_revision_of_the_policy(tiny_qwen2_5, tmp_path, monkeypatch, make_trainer):
    """A hub cache with two revisions of one model; the branch "main" points to the other one."""
    hub, commits = tmp_path / "hub", {"main": "a" * 40, "older": "b" * 40}
    folder = hub / "models--someone--tiny"
    for branch, commit in commits.items():
        snapshot = folder / "snapshots" / commit
        shutil.copytree(tiny_qwen2_5, snapshot)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / branch).write_text(commit)
    weights = load_file(snapshot / "model.safetensors")
    save_file({name: value * 1.5 for name, value in weights.items()}, snapshot / "model.safetensors", {"format": "pt"})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    trainer = make_trainer("someone/tiny", revision="older", beta=0.1)
    policy = dict(trainer.model.named_parameters())
    for name, value in trainer.ref_model.named_parameters():
        assert torch.equal(value, policy[name]), name
    assert trainer.args.model_init_kwargs is None


@pytest.mark.parametrize("settings", [InvertGRPOConfig, InvertSFTConfig])
def test_fp16_needs_a_gpu(tmp_path, settings):
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        settings(output_dir=str(tmp_path), use_cpu=True, fp16=True, bf16=False)
