"""Muon for the matrices of a model and AdamW for the rest, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer


class MuonWithAdamW(Optimizer):
    """`torch.optim.Muon` for hidden matrices, `torch.optim.AdamW` for embeddings, heads, convolutions and vectors.

    Orthogonalised updates teach a small model from random weights in about a third of AdamW's steps.
    Schedulers and checkpoints see one optimizer: its groups are those of both, its state is shared.

    Args:
        model: whose trainable parameters are optimized.
        learning_rate: of AdamW.
        muon_learning_rate: of Muon, whose updates are scaled to the size of AdamW's.
        weight_decay: of matrices, also of those that AdamW takes.
        betas, eps: of AdamW.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        learning_rate: float,
        muon_learning_rate: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        outer = {
            id(p) for module in model.modules() if isinstance(module, torch.nn.Embedding) for p in module.parameters()
        }
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        hidden = [parameter for parameter in trained if parameter.ndim == 2 and id(parameter) not in outer]
        taken = {id(parameter) for parameter in hidden}
        others = [parameter for parameter in trained if id(parameter) not in taken]
        groups = [
            {"params": [p for p in others if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        self._parts: list[Optimizer] = []  # an adapter has matrices only
        if hidden:
            self._parts.append(
                Muon(hidden, lr=muon_learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )
        if groups:
            self._parts.append(AdamW(groups, lr=learning_rate, betas=betas, eps=eps))
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both; ``closure`` evaluates the loss again, as for any optimizer."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        first = 0
        for part in self._parts:
            groups = self.param_groups[first : first + len(part.param_groups)]
            part.param_groups, part.state = groups, self.state  # loading a checkpoint replaces both
            part.step()
            first += len(groups)
        return loss
