"""The trainer of the whole method: the updates of an iteration one after another, and tests on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from invert_rl.tal.training import Draw, SupervisedTrainer, TestOnTheWay
from invert_rl.wtal.config import WtalArguments
from invert_rl.wtal.model import SemanticLocalizer


class WtalTrainer(SupervisedTrainer):
    """One step is one iteration: reconstructor, then its attention, then the localizer, each an update of its own.

    The three share no parameters and all see the same batch [R train.py]. The localizer's learning rate is constant;
    that of the reconstruction branch rises over ``reconstruction_warmup`` steps and falls with the root of the step.
    """

    def __init__(
        self,
        model: SemanticLocalizer,
        draw: Draw,
        args: WtalArguments,
        test: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        """``test`` gives the metrics that are logged every ``evaluate_every`` iterations."""
        self.phases = model.phases
        self.phase_parameters = {phase: model.phase_parameters(phase) for phase in self.phases}
        groups = [
            {
                "params": self.phase_parameters[phase],
                "lr": args.learning_rate if phase == "localizer" else args.reconstruction_learning_rate,
                "weight_decay": args.weight_decay if phase == "localizer" else 0.0,
            }
            for phase in self.phases
        ]
        super().__init__(model, draw, args, groups)
        if test is not None and args.evaluate_every:
            self.add_callback(TestOnTheWay(self, test, args.evaluate_every))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Adam with an L2 term, as released; made once, then what accelerate made of it."""
        if self.optimizer is None:
            betas = (self.args.adam_beta1, self.args.adam_beta2)
            self.optimizer = torch.optim.Adam(self.groups, betas=betas, eps=self.args.adam_epsilon)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None, **kwargs: Any
    ) -> LambdaLR:
        warmup = max(1, self.args.reconstruction_warmup)
        factors = [
            (lambda step: 1.0) if phase == "localizer" else (lambda step: inverse_root(step, warmup))
            for phase in self.phases
        ]
        self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, factors)
        return self.lr_scheduler

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        total = torch.zeros((), device=self.args.device)
        for phase in self.phases[:-1]:
            total = total + super().training_step(model, {**inputs, "phase": phase}, num_items_in_batch)
            if self.args.reconstruction_clip > 0:
                self.accelerator.clip_grad_norm_(self.phase_parameters[phase], self.args.reconstruction_clip)
            optimizer = self.create_optimizer()
            optimizer.step()
            optimizer.zero_grad()
        return total + super().training_step(model, {**inputs, "phase": self.phases[-1]}, num_items_in_batch)


def inverse_root(step: int, warmup: int) -> float:
    """Share of the learning rate after ``step`` updates: ``step / warmup``, then ``sqrt(warmup / step)`` [R]."""
    return min((step + 1) / warmup, (warmup / (step + 1)) ** 0.5)
