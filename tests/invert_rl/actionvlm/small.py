"""A small ActionVLM on a few generated videos, for tests in this process and on ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from invert_rl.actionvlm.config import ActionVLMArguments
from invert_rl.actionvlm.data import ActionData
from invert_rl.actionvlm.experiment import Experiment, build
from invert_rl.actionvlm.planted import WORLD, planted_data
from invert_rl.actionvlm.prompt import DESCRIPTIONS

SETTINGS: dict[str, Any] = {
    "window": 64,
    "overlap": None,
    "head_width": 16,
    "head_levels": 3,
    "tiny_width": 32,
    "lora_rank": 0,
    "learning_rate": 1e-3,
    "llm_learning_rate": 1e-3,
    "advantage_hold_epochs": 0,
    "descriptions": str(DESCRIPTIONS / "planted.json"),
    "per_device_train_batch_size": 4,
    "max_steps": 6,
    "logging_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "seed": 3,
}


def arguments(folder: Path, **changes: Any) -> ActionVLMArguments:
    """Settings of a run of six steps."""
    return ActionVLMArguments(output_dir=str(folder), **{**SETTINGS, **changes})


def few_videos(folder: Path, train: int = 8, test: int = 2) -> ActionData:
    """The first generated videos."""
    return planted_data(folder, 0, settings=replace(WORLD, train_videos=train, test_videos=test))


def experiment(folder: Path, videos: int = 8, **changes: Any) -> Experiment:
    """A run on ``videos`` training videos."""
    return build(arguments(folder, **changes), few_videos(folder / "planted", videos))


def weights(run: Experiment) -> dict[str, torch.Tensor]:
    """A copy of all weights and buffers."""
    return {name: value.clone() for name, value in run.model.state_dict().items()}
