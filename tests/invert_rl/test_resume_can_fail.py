"""Resume tests that can fail: whatever is not restored, the resumed run differs from the one that was never stopped.

Each kind of trainer makes a run whose weights move and whose dropout draws random numbers, is resumed half-way from its
checkpoint, and is resumed again with each restore left out in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers import Trainer

from invert_rl.checkpoints import WholeCheckpoints
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.grpo.trainer import InvertGRPOTrainer
from invert_rl.models import load_model, load_processor
from invert_rl.sft.config import InvertSFTConfig
from invert_rl.sft.trainer import InvertSFTTrainer
from invert_rl.tal.training import SupervisedArguments, SupervisedTrainer
from invert_rl.video.store import FrameStore
from tests.invert_rl.grpo.conftest import share_of_even_tokens
from tests.invert_rl.tiny_run import SHORT_RUN

STEPS, HALF = 6, 3
RUN = {
    **SHORT_RUN,
    "learning_rate": 3e-2,
    "lr_scheduler_type": "cosine",
    "max_steps": STEPS,
    "save_strategy": "steps",
    "save_steps": HALF,
    "per_device_train_batch_size": 4,
}
Make = Callable[[Path], Trainer]


def no_restore(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Leave one of the restores of a resume out."""

    def optimizer_only(self: Trainer, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True))

    def scheduler_only(self: Trainer, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state = torch.load(Path(checkpoint) / "optimizer.pt", weights_only=True)
            rates = [group["lr"] for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(state)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

    stubs: dict[str, tuple[type, str, Any]] = {
        "weights": (WholeCheckpoints, "_load_from_checkpoint", lambda self, *args: None),
        "optimizer": (Trainer, "_load_optimizer_and_scheduler", optimizer_only),
        "scheduler": (Trainer, "_load_optimizer_and_scheduler", scheduler_only),
        "random state": (Trainer, "_load_rng_state", lambda self, checkpoint: None),
    }
    if what == "place in the data":
        monkeypatch.setattr("transformers.trainer.skip_first_batches", lambda loader, count: loader)
    else:
        monkeypatch.setattr(*stubs[what])


class Line(nn.Module):
    """Least squares with dropout and a running mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.slope, self.dropout = nn.Linear(8, 1), nn.Dropout(0.3)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        error = self.slope(self.dropout(x))[:, 0] - y
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * error.detach().mean())
        return {"loss": error.square().mean()}


def line(folder: Path) -> Trainer:
    def draw(step: int, part: int) -> dict[str, torch.Tensor]:
        x = torch.from_numpy(np.random.default_rng([7, step, part]).standard_normal((4, 8))).float()
        return {"x": x, "y": x.sum(1)}

    names = ("learning_rate", "lr_scheduler_type", "max_steps", "save_steps", "use_cpu", "disable_tqdm", "seed")
    return SupervisedTrainer(
        Line(), draw, SupervisedArguments(output_dir=str(folder), **{name: RUN[name] for name in names})
    )


@pytest.fixture
def makers(tiny_qwen2_5: str, rows: list, world: Path) -> dict[str, Make]:
    """A trainer of each kind; those of models of transformers train an adapter with dropout."""

    def parts(args: Any) -> dict[str, Any]:
        torch.manual_seed(0)  # of the adapter's first weights
        processor = load_processor(tiny_qwen2_5)
        return {
            "model": load_model(tiny_qwen2_5),
            "rows": rows,
            "args": args,
            "processing_class": processor,
            "store": FrameStore(world / "videos", args.frame_settings(processor.video_processor.patch_size)),
            "peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.3),
        }

    def grpo(folder: Path) -> Trainer:
        args = InvertGRPOConfig(output_dir=str(folder), num_generations=4, max_completion_length=6, **RUN)
        return InvertGRPOTrainer(reward_funcs=[share_of_even_tokens], **parts(args))

    def sft(folder: Path) -> Trainer:
        args = InvertSFTConfig(output_dir=str(folder), **RUN)
        return InvertSFTTrainer(target=lambda draw, row: f"<answer>{row.query}</answer>", **parts(args))

    return {"grpo": grpo, "sft": sft, "supervised": line}


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", ["grpo", "sft", "supervised"])
def test_whatever_is_not_restored_is_seen(makers, kind, tmp_path, monkeypatch):
    straight = makers[kind](tmp_path / "run")
    start = weights(straight)
    straight.train()
    end = weights(straight)
    assert not same(start, end)
    checkpoint = str(tmp_path / "run" / f"checkpoint-{HALF}")
    resumed = makers[kind](tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=checkpoint)
    assert resumed.state.global_step == STEPS
    assert same(weights(resumed), end)
    for what in ("weights", "optimizer", "scheduler", "random state", "place in the data"):
        if (kind, what) == ("supervised", "place in the data"):
            continue  # batches are drawn by the number of the step; test_training.py says so
        with monkeypatch.context() as patch:
            no_restore(patch, what)
            mutant = makers[kind](tmp_path / what)
            mutant.train(resume_from_checkpoint=checkpoint)
        assert not same(weights(mutant), end), f"without its {what} the resumed run ends like the straight one"
