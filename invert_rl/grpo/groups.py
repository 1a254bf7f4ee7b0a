"""Keeping the completions of a prompt together in the micro-batches of a round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def order_by_group(batches: Sequence[dict[str, Any]], group: str, steps: int = 1) -> list[dict[str, Any]]:
    """Redistribute the samples of equally large batches so that samples of one group are neighbours.

    TRL shuffles all samples of a round before it cuts the round into micro-batches, which leaves a micro-batch with
    many prompts of which it holds one or two completions each. Here groups follow in the order in which their first
    samples came, so that their order stays random. Where the batches are used up by several optimizer steps, each step
    gets its share of every group, so that none has one prompt only, whose rewards may all be equal.

    Args:
        batches: micro-batches of a round: tensors and lists by sample, and values for the whole round (scalars, None).
        group: key of the list whose entries are the same object for samples of one group.
        steps: optimizer steps that the batches make; each has the same number of batches.
    """
    sizes = [len(batch[group]) for batch in batches]
    members = [member for batch in batches for member in batch[group]]
    first: dict[int, int] = {}
    for place, member in enumerate(members):
        first.setdefault(id(member), place)
    by_group = sorted(range(len(members)), key=lambda place: first[id(members[place])])
    order = [place for step in range(steps) for place in by_group[step::steps]]
    ordered: list[dict[str, Any]] = [{} for _ in batches]
    for key, value in batches[0].items():
        values = [batch[key] for batch in batches]
        if isinstance(value, list):
            together = [entry for part in values for entry in part]
            pieces: Sequence[Any] = _cut([together[place] for place in order], sizes)
        elif torch.is_tensor(value) and value.ndim:
            pieces = torch.cat(values)[order].split(sizes)
        else:
            pieces = values
        for batch, piece in zip(ordered, pieces, strict=True):
            batch[key] = piece
    return ordered


def _cut(entries: list[Any], sizes: Sequence[int]) -> list[list[Any]]:
    pieces, start = [], 0
    for size in sizes:
        pieces.append(entries[start : start + size])
        start += size
    return pieces
