"""A learning rate of 1e-6 moves nearly all weights: they are float32, whatever the checkpoint was in."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu_checks.common import random_model, require, trainer_of


def run(rehearsal: bool) -> dict[str, Any]:
    """One step from bfloat16 weights; beside it how many would have moved had they stayed so."""
    model = random_model(rehearsal, torch.bfloat16)
    with trainer_of(model, rehearsal, learning_rate=1e-6) as trainer:
        before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
        trainer.train()
    moved = stuck = total = 0
    for name, value in trainer.model.named_parameters():
        old, new = before[name].to(value.device), value.detach()
        require(new.dtype == torch.float32, f"{name} is trained in {new.dtype}")
        require(bool(torch.isfinite(new).all()), f"{name} is not finite after one step")
        moved += int((new != old).sum())
        stuck += int((new.bfloat16() == old.bfloat16()).sum())
        total += value.numel()
    result = {"moved": round(moved / total, 3), "would_move_in_bfloat16": round(1 - stuck / total, 3)}
    # Embeddings of words that do not come up have no gradient.
    require(result["moved"] > 0.6, f"only {result['moved']:.0%} of the weights moved")
    require(result["would_move_in_bfloat16"] < result["moved"] / 2, "bfloat16 would have moved as much")
    return result
