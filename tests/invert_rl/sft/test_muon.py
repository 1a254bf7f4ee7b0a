"""Muon and AdamW as one optimizer: each parameter gets PyTorch's own update, and a checkpoint goes on exactly."""

from __future__ import annotations

import copy

import pytest
import torch

from invert_rl.sft.config import InvertSFTConfig
from invert_rl.sft.muon import MuonWithAdamW


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(7, 8), torch.nn.Linear(8, 6), torch.nn.LayerNorm(6))


def train(net: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        ids = torch.randint(0, 7, (5,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(ids).pow(3).sum().backward()
        optimizer.step()


def test_each_part_is_what_pytorch_does_alone():
    joint, alone = model(), model()
    train(joint, MuonWithAdamW(joint, 1e-3, 2e-3, weight_decay=0.01), 4)
    muon = torch.optim.Muon([alone[1].weight], lr=2e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    vectors = [alone[1].bias, *alone[2].parameters()]
    groups = [{"params": [alone[0].weight], "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=1e-3)

    class Both:
        def zero_grad(self) -> None:
            alone.zero_grad()

        def step(self) -> None:
            muon.step()
            adamw.step()

    train(alone, Both(), 4)  # type: ignore[arg-type]
    for name, value in joint.state_dict().items():
        torch.testing.assert_close(value, alone.state_dict()[name], rtol=0, atol=0)


def test_a_checkpoint_goes_on_as_the_run_that_was_never_stopped():
    straight = model()
    optimizer = MuonWithAdamW(straight, 1e-3, 2e-3)
    train(straight, optimizer, 3)
    weights, state = copy.deepcopy(straight.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(straight, optimizer, 3, first=3)
    resumed = model()
    resumed.load_state_dict(weights)
    other = MuonWithAdamW(resumed, 1e-3, 2e-3)
    other.load_state_dict(state)
    train(resumed, other, 3, first=3)
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(value, resumed.state_dict()[name], rtol=0, atol=0)


@pytest.mark.parametrize("kept", ["matrices", "vectors"])
def test_a_model_may_train_only_what_one_of_them_takes(kept):
    net = model()
    for parameter in net.parameters():
        parameter.requires_grad_((parameter.ndim == 2 and parameter.shape[0] != 7) == (kept == "matrices"))
    before = copy.deepcopy(net.state_dict())
    train(net, MuonWithAdamW(net, 1e-3, 2e-3), 2)
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name, parameter in net.named_parameters() if parameter.requires_grad}


def test_a_schedule_moves_both_learning_rates():
    optimizer = MuonWithAdamW(model(), 1e-3, 2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-3, 5e-4, 5e-4])
    assert schedule.get_last_lr() == pytest.approx([1e-3, 5e-4, 5e-4])


@pytest.mark.parametrize(
    ("given", "message"),
    [({"muon_learning_rate": 0.0}, "must be positive"), ({"optim": "adafactor"}, "leave out optim adafactor")],
)
def test_settings_that_muon_would_ignore_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        InvertSFTConfig(output_dir="unused", use_cpu=True, bf16=False, **{"muon_learning_rate": 1e-3, **given})
