"""A recipe's YAML means what a person reads in it, or is refused in one line before anything is loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from trl import ModelConfig

from data_prep.errors import DataError
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.recipe.arguments import parse_arguments
from invert_rl.strict_yaml import read_yaml


@pytest.fixture
def parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def parse(text: str, *words: str) -> tuple[Any, Any]:
        config = tmp_path / "c.yaml"
        config.write_text(f"use_cpu: true\n{text}\n")
        monkeypatch.setattr(sys, "argv", ["x", "--config", str(config), *words])
        return parse_arguments("grpo_invert", (InvertGRPOConfig, ModelConfig), config)

    return parse


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("learning_rate: 1e-6", "learning_rate", 1e-6),
        ("lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1e-7}", "lr_scheduler_kwargs", None),
        ("rewards: {tvg: {format: 1e0}}", "rewards", {"tvg": {"format": 1.0}}),
        ("max_steps: 010", "max_steps", 10),
        ("max_steps: 1e3", "max_steps", 1000),
        ("max_steps: '10'", "max_steps", 10),
        ("num_generations: 4.0", "num_generations", 4),
        ("tasks: tvg", "tasks", ["tvg"]),
        ("draw_max_frames: 8", "draw_max_frames", [8]),
        ("bf16: 1", "bf16", True),
        ("bf16: 'no'", "bf16", False),
        ("run_name: 2024-05-01", "run_name", "2024-05-01"),
        ("resume_from_checkpoint: 5", "resume_from_checkpoint", "5"),
        ("save_strategy: no", "save_strategy", "no"),
        ("seed: 0x10", "seed", 16),
    ],
)
def test_a_value_is_what_its_field_takes(parsed, text, name, value):
    found = getattr(parsed(text)[0], name)
    if value is None:
        assert found == {"min_lr": 1e-7}
    else:
        assert getattr(found, "value", found) == value and type(getattr(found, "value", found)) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nlearning_rate: 1.0e-6\nseed: 2", "the key 'seed' is there twice.*line 4"),
        ("rewards: {tvg: {iou: 1}, tvg: {format: 1}}", "the key 'tvg' is there twice"),
        ("seed: 1.5", "seed must be a whole number, found 1.5"),
        ("seed: null", "seed must be a whole number, found None"),
        ("learning_rate: true", "learning_rate must be a number, found True"),
        ("learning_rate: 1,5e-6", "learning_rate must be a number, found '1,5e-6'"),
        ("max_steps: 1:30", "max_steps must be a whole number"),
        ("max_steps: 99999999999999999999999", "max_steps must be a positive whole number"),
        ("bf16: 2", "bf16 must be true or false, found 2"),
        ("bf16: [true]", "bf16 must be true or false"),
        ("train_data: [a, b]", r"train_data must be a text, found \['a', 'b'\]"),
        ("tasks: {tvg: 1}", "tasks must be a list, found"),
        ("difficulty_range: [a, b]", "difficulty_range must be a list, found"),
        ("inject_truth: 2", "inject_truth must be true or false"),
        ("gradient_checkpointing: {a: 1}", "gradient_checkpointing must be true or false"),
        ("output_dir: null", "output_dir must be a text"),
        ("output_dir: ''", "output_dir is empty"),
        ("model_name_or_path: ''", "model_name_or_path is empty"),
        ('output_dir: "a\\0b"', "output_dir holds a character that no text has"),
        ('output_dir: "\\ud800"', "output_dir holds a character that no text has"),
        ("num_generations: 0", "num_generations must be a number from 2"),
        ("eval_samples: -1", "eval_samples must be a number from 0"),
        ("max_prompt_length: 0", "max_prompt_length must be a number from 1"),
        ("frame_memory_mb: -1", "frame_memory_mb must be a number from 0"),
        ("video_timeout: -1", "video_timeout must be a number from 0"),
        ("toy_train_clips: 0", "toy_train_clips must be a number from 1"),
        ("3: 4", "the key 3 is no name"),
        ("help: true", "unknown key 'help'"),
        ("a: " + "[" * 3000, "nested too deeply|not valid YAML"),
        ("day: 2001-13-45", "not valid YAML: month must be in"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(parsed, text, message):
    with pytest.raises(DataError, match=message) as error:
        parsed(text)
    assert "\n" not in str(error.value) and not str(error.value).startswith("settings: settings:")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "abc"], "settings: argument --seed: invalid int value: 'abc'; --help"),
        (["--seed"], "argument --seed: expected one argument"),
        (["--use_cp", "true"], "unknown option --use_cp; did you mean --use_cpu"),
        (["--output_dir", ""], "output_dir is empty"),
        (["--config"], "--config needs a YAML file"),
    ],
)
def test_words_of_the_command_line_are_refused_without_the_whole_usage(parsed, words, message):
    with pytest.raises(DataError, match=message) as error:
        parsed("", *words)
    assert len(str(error.value)) < 300


def test_a_merged_mapping_may_be_overridden(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert read_yaml(path)["b"] == {"x": 3, "y": 2}


@pytest.mark.parametrize("content", [b"", b"- a\n", b"hello\n", b"seed: 3\0\n", b"\xff\xfes\0", b"a: 1\n---\na: 2\n"])
def test_what_is_no_mapping_is_refused_with_its_name(tmp_path, content):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"c\.yaml"):
        read_yaml(path)
