"""A trainer factory on the small toy world, with rewards that vary on untrained models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.rows import Row
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.grpo.trainer import InvertGRPOTrainer
from invert_rl.models import load_model, load_processor
from invert_rl.video.store import FrameStore
from tests.invert_rl.tiny_run import SHORT_RUN

MakeTrainer = Callable[..., InvertGRPOTrainer]


def share_of_even_tokens(completions: list, completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A reward with variance from the first step on, also for random weights."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def tvg_only(completions: list, task: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float | None]:
    """None for other tasks, as a task's own reward is."""
    return [len(ids) / 8 if name == "tvg" else None for ids, name in zip(completion_ids, task, strict=True)]


@pytest.fixture
def make_trainer(world: Path, rows: list[Row], tmp_path: Path) -> MakeTrainer:
    """Build a trainer; keywords override the settings; ``peft_config``, ``rows``, … and ``dtype`` are passed on."""

    def build(checkpoint: str, output_dir: str | None = None, **overrides: Any) -> InvertGRPOTrainer:
        passed = {name: overrides.pop(name) for name in ("peft_config", "quarantine") if name in overrides}
        dtype, revision = overrides.pop("dtype", "auto"), overrides.pop("revision", None)
        root = overrides.pop("video_root", world / "videos")
        data, model = overrides.pop("rows", rows), overrides.pop("model", None)
        rewards = overrides.pop("reward_funcs", [share_of_even_tokens, tvg_only])
        settings = {
            **SHORT_RUN,
            "output_dir": output_dir or str(tmp_path / "run"),
            "per_device_train_batch_size": 4,
            "num_generations": 4,
            "max_completion_length": 6,
            "max_steps": 2,
            **overrides,
        }
        args = InvertGRPOConfig(**settings)
        processor = load_processor(checkpoint, revision)
        return InvertGRPOTrainer(
            model=load_model(checkpoint, revision, dtype=dtype) if model is None else model,
            rows=data,
            reward_funcs=rewards,
            args=args,
            processing_class=processor,
            store=FrameStore(root, args.frame_settings(processor.video_processor.patch_size), in_process=True),
            **passed,
        )

    return build
