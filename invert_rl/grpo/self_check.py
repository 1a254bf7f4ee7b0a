"""Does the shared forward give what the plain one gives, on this model and this machine, down to its last branch?

A fault that lets completions of one prompt see each other leaves the first of them right: it has nobody before it. So
what counts is the worst branch, not the average. Two things are looked at, each against the noise of rounding, which is
measured on the spot as what the plain forward alone changes when its rows come in another order behind more padding (or
a long row before more tokens):

- how far each branch is from the plain forward, and
- how far it moves when the first branch says something else, which should be not at all. Where the plain forward's
  other rows do not move by a bit then (with experts they may: other tokens, other batches), hardly anything passes: a
  small leak would be lost in the rounding of half precision, but not in a difference that is zero without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn.functional import pad

CHECKED_ROWS = 4
"""Completions that are scored both ways, of one prompt if it has as many."""

LONG = 4096
"""Of rows with more tokens two are scored, each by itself and without padding (`one_by_one`): behind padding attention
needs a mask of N x N elements."""

NOISE_FACTOR = 3
"""How many times the measured noise passes."""

FLOOR = {"fp32": 1e-5, "half": 2e-3}
"""What passes where the plain forward shows no noise, as on a CPU in bf16: mean over a branch's tokens. Shared and
plain forward differ by less than 1e-6 and 1e-3 on tiny models, a recurrent state that flows on by 0.05."""

LEAK_FLOOR = 2e-6
"""What passes of the second where the plain forward shows nothing: mean over a branch's tokens, in any precision."""

MORE_PADDING = 8

Batch = dict[str, torch.Tensor]

Score = Callable[[Batch, list[int], int], torch.Tensor]
"""Log-probabilities ``(rows, n)`` of a batch's last ``n`` tokens, given whose prompt each row has."""


class Verdict(NamedTuple):
    """Mean absolute differences of log-probabilities, each of the worst branch."""

    error: float
    """Shared against plain."""
    leak: float
    """Shared against shared with another first completion, first branches left out."""
    noise: float
    """Plain against plain in other order and padding."""
    limit: float
    """The most that ``error`` may be."""
    leak_limit: float
    """The most that ``leak`` may be."""

    @property
    def excess(self) -> float:
        """How far the worse of the two is beyond its limit: above 0 for a fault."""
        return max(self.error - self.limit, self.leak - self.leak_limit)


def floor(dtype: torch.dtype, mixed_precision: str) -> float:
    """`FLOOR` for weights of ``dtype`` under accelerate's ``mixed_precision``; TF32 counts as half."""
    exact = dtype == torch.float32 and mixed_precision == "no" and not torch.backends.cuda.matmul.allow_tf32
    return FLOOR["fp32" if exact or dtype == torch.float64 else "half"]


def compare(
    plain: Score,
    shared: Score,
    batch: Batch,
    completion_length: int,
    least: float,
    long: bool = False,
) -> Verdict:
    """Score ``batch`` (``input_ids`` and ``attention_mask``, prompts on the left) both ways.

    ``plain`` and ``shared`` score the last tokens, as many as they are told, of a batch whose rows have the prompts of
    the rows they are told. ``least`` is the smallest limit; with ``long`` the plain forward takes one row at a time.
    """
    rows = list(range(len(batch["input_ids"])))
    mask = batch["attention_mask"][:, -completion_length:].bool()
    other = {**batch, "input_ids": _another_first_completion(batch["input_ids"], mask)}
    theirs = one_by_one(plain, batch, completion_length) if long else together(plain, batch, other, completion_length)
    ours = shared(batch, rows, completion_length)
    noise = by_branch(theirs.scores, theirs.moved, mask).max().item()
    limit = max(least, NOISE_FACTOR * noise)
    leak, plain_leak = 0.0, 0.0
    if len(rows) > 1:
        leak = by_branch(ours, shared(other, rows, completion_length), mask)[1:].amax().item()
        plain_leak = by_branch(theirs.undisturbed, theirs.disturbed, mask)[1:].amax().item()
    return Verdict(
        error=by_branch(theirs.scores, ours, mask).max().item(),
        leak=leak,
        noise=noise,
        limit=limit,
        leak_limit=limit if plain_leak else min(limit, LEAK_FLOOR),
    )


class PlainScores(NamedTuple):
    """The plain forward's log-probabilities, ``(rows, completion_length)`` each."""

    scores: torch.Tensor
    """Of the batch."""
    moved: torch.Tensor
    """The same in another place: what differs is rounding."""
    undisturbed: torch.Tensor
    """In company."""
    disturbed: torch.Tensor
    """In other company of the same size: nothing of a row but the first may change, up to the rounding of experts."""


def together(plain: Score, batch: Batch, other: Batch, completion_length: int) -> PlainScores:
    """All rows in one forward; in reverse order behind more padding; and with another first completion."""
    rows = list(range(len(batch["input_ids"])))
    moved = {name: pad(tensor, (MORE_PADDING, 0)).flip(0) for name, tensor in batch.items()}
    scores = plain(batch, rows, completion_length)
    return PlainScores(
        scores,
        plain(moved, rows[::-1], completion_length).flip(0),
        scores,
        plain(other, rows, completion_length) if len(rows) > 1 else scores,
    )


def one_by_one(plain: Score, batch: Batch, completion_length: int) -> PlainScores:
    """Each row by itself, without padding on its left, so that causal attention needs no mask.

    What follows a completion cannot change it: company is its own tokens once more, and other company those in reverse
    order.
    """
    rows = []
    for number, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True)):
        own = ids[int(mask.argmax()) :]
        completion = own[-completion_length:]
        scores = []
        for tail in (completion[:0], completion, completion.flip(0)):
            alone = torch.cat([own, tail])[None]
            last = plain(
                {"input_ids": alone, "attention_mask": torch.ones_like(alone)}, [number], completion_length + len(tail)
            )
            scores.append(last[:, :completion_length])
        rows.append(scores)
    scores, moved, disturbed = (torch.cat(kind) for kind in zip(*rows, strict=True))
    return PlainScores(scores, moved, moved, disturbed)


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
