"""Does the shared forward give what the plain one gives, on this model and this machine, down to its last branch?

A fault that lets completions of one prompt see each other leaves the first of them right: it has nobody before it. So
what counts is the worst branch, not the average. Two things are looked at, each against the noise of rounding, which is
measured on the spot as what the plain forward alone changes when its rows come in another order behind more padding:

- how far each branch is from the plain forward, and
- how far it moves when the first branch says something else, which should be not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn.functional import pad

CHECKED_ROWS = 4
"""Completions that are scored both ways, of one prompt if it has as many."""

NOISE_FACTOR = 3
"""How many times the measured noise passes."""

FLOOR = {"fp32": 1e-5, "half": 2e-3}
"""What passes where the plain forward shows no noise, as on a CPU in bf16: mean over a branch's tokens. Shared and
plain forward differ by less than 1e-6 and 1e-3 on tiny models, a recurrent state that flows on by 0.05."""

MORE_PADDING = 8

Batch = dict[str, torch.Tensor]


class Verdict(NamedTuple):
    """Mean absolute differences of log-probabilities, each of the worst branch."""

    error: float
    """Shared against plain."""
    leak: float
    """Shared against shared with another first completion, first branches left out."""
    noise: float
    """Plain against plain in other order and padding."""
    limit: float
    """The most that ``error`` and ``leak`` may be."""

    @property
    def worst(self) -> float:
        """The larger of the two."""
        return max(self.error, self.leak)


def floor(dtype: torch.dtype, mixed_precision: str) -> float:
    """`FLOOR` for weights of ``dtype`` under accelerate's ``mixed_precision``; TF32 counts as half."""
    exact = dtype == torch.float32 and mixed_precision == "no" and not torch.backends.cuda.matmul.allow_tf32
    return FLOOR["fp32" if exact or dtype == torch.float64 else "half"]


def compare(
    plain: Callable[[Batch, list[int]], torch.Tensor],
    shared: Callable[[Batch, list[int]], torch.Tensor],
    batch: Batch,
    completion_length: int,
    least: float,
) -> Verdict:
    """Score ``batch`` (``input_ids`` and ``attention_mask``, prompts on the left) both ways.

    ``plain`` and ``shared`` score a batch whose rows have the prompts of the rows they are told:
    ``(rows, completion_length)``. ``least`` is the smallest limit.
    """
    rows = list(range(len(batch["input_ids"])))
    mask = batch["attention_mask"][:, -completion_length:].bool()
    reference = plain(batch, rows)
    moved = {name: pad(tensor, (MORE_PADDING, 0)).flip(0) for name, tensor in batch.items()}
    again = plain(moved, rows[::-1]).flip(0)
    ours = shared(batch, rows)
    other = {**batch, "input_ids": _another_first_completion(batch["input_ids"], mask)}
    disturbed = shared(other, rows)
    noise = by_branch(reference, again, mask).max().item()
    return Verdict(
        error=by_branch(reference, ours, mask).max().item(),
        leak=by_branch(ours, disturbed, mask)[1:].amax().item() if len(rows) > 1 else 0.0,
        noise=noise,
        limit=max(least, NOISE_FACTOR * noise),
    )


def by_branch(scores: torch.Tensor, others: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference over each row's tokens in ``mask``: infinite if one is not finite, 0 without tokens."""
    difference = (scores.float() - others.float()).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    return difference.masked_fill(~mask, 0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def _another_first_completion(input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The first row's completion takes the tokens of all completions, a text's, in another order."""
    length = mask.shape[1]
    tokens = input_ids[:, -length:][mask].flip(0)
    changed = input_ids.clone()
    kept = int(mask[0].sum())
    changed[0, -length:][mask[0]] = tokens[:kept] if len(tokens) > kept else tokens.roll(1)
    return changed
