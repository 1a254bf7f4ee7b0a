"""The trainer of the supervised systems: batches by step, logs, resume, accumulation."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from invert_rl.loading import CheckpointError
from invert_rl.tal.training import SupervisedArguments, SupervisedTrainer


class Line(nn.Module):
    """Least squares, with a running mean as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.slope = nn.Linear(3, 1)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x, y, note):
        error = self.slope(x)[:, 0] - y
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * error.detach().mean())
        return {"loss": error.square().mean(), "mae": error.abs().mean(), "two": torch.tensor(2.0)}


def draw(step, part):
    rng = np.random.default_rng([7, step, part])
    x = torch.from_numpy(rng.standard_normal((4, 3))).float()
    return {"x": x, "y": x.sum(1), "note": [f"{step}.{part}"]}


def arguments(folder, **changes):
    given = {"max_steps": 6, "save_steps": 2, "logging_steps": 2, "use_cpu": True, "learning_rate": 0.1, **changes}
    return SupervisedArguments(output_dir=str(folder), **given)


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_every_step_has_its_batch_and_every_loss_is_logged_as_a_mean(tmp_path):
    seen = []

    def noted(step, part):
        seen.append((step, part))
        return draw(step, part)

    args = arguments(tmp_path, gradient_accumulation_steps=2, learning_rate=0.0)
    SupervisedTrainer(Line(), noted, args).train()
    assert seen == [(step, part) for step in range(6) for part in range(2)]
    lines = [line for line in log_of(tmp_path) if "mae" in line]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert all(line["two"] == 2.0 for line in lines)
    parts = [draw(step, part) for step in (2, 3) for part in range(2)]
    expected = torch.stack([Line()(**part)["mae"] for part in parts]).mean()
    assert lines[1]["mae"] == pytest.approx(expected.item(), rel=1e-5)


def test_accumulated_parts_make_the_step_of_their_union(tmp_path):
    args = arguments(tmp_path / "a", max_steps=1, gradient_accumulation_steps=2, optim="sgd", max_grad_norm=0.0)
    one, union = Line(), Line()
    SupervisedTrainer(one, draw, args).train()
    parts = [draw(0, part) for part in range(2)]
    union(torch.cat([p["x"] for p in parts]), torch.cat([p["y"] for p in parts]), [])["loss"].backward()
    expected = union.slope.weight.detach() - 0.1 * union.slope.weight.grad
    torch.testing.assert_close(one.slope.weight.detach(), expected)


def test_a_resumed_run_is_bit_equal_with_its_buffers(tmp_path):
    whole, first, second = Line(), Line(), Line()
    SupervisedTrainer(whole, draw, arguments(tmp_path / "whole", lr_scheduler_type="constant")).train()
    args = {"lr_scheduler_type": "constant"}
    SupervisedTrainer(first, draw, arguments(tmp_path / "cut", max_steps=4, **args)).train()
    with torch.no_grad():
        second.slope.weight.fill_(9.0)
    trainer = SupervisedTrainer(second, draw, arguments(tmp_path / "cut", **args))
    trainer.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-4"))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert [line["step"] for line in log_of(tmp_path / "cut") if "mae" in line] == [2, 4, 6]


def test_a_checkpoint_with_other_names_is_refused(tmp_path):
    SupervisedTrainer(Line(), draw, arguments(tmp_path)).train()
    path = tmp_path / "checkpoint-4" / "model.safetensors"
    save_file({f"old.{name}": value for name, value in load_file(path).items()}, path)
    trainer = SupervisedTrainer(Line(), draw, arguments(tmp_path))
    with pytest.raises(CheckpointError, match=r"3 missing: mean, slope\.bias, slope\.weight; 3 unexpected: old\.mean"):
        trainer.train(resume_from_checkpoint=str(path.parent))


def test_parameter_groups_have_their_own_rates(tmp_path):
    model = Line()
    groups = [{"params": [model.slope.weight], "lr": 0.0}, {"params": [model.slope.bias]}]
    before = model.slope.weight.detach().clone()
    SupervisedTrainer(model, draw, arguments(tmp_path, max_steps=2), groups).train()
    assert torch.equal(model.slope.weight, before)
    assert model.slope.bias.grad is not None or model.slope.bias.abs().sum() > 0
