"""Caches of prompts that were forwarded apart, as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache


def joined(caches: Sequence[DynamicCache], places: Sequence[int]) -> DynamicCache:
    """One cache of all prompts, each at its place; keys and values of shorter ones stand behind zeros.

    Whoever goes on from it masks those zeros, as it does the padding of a batch that was forwarded at once.

    Args:
        caches: of batches; in each all prompts have one length. The first one is changed and returned.
        places: where each prompt belongs, in the order of the batches.
    """
    first, *others = caches
    if not others:
        return first
    order = torch.tensor(places).argsort()
    longest = max(cache.get_seq_length() for cache in caches)
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        for name in vars(layers[0]):
            parts = [getattr(layer, name) for layer in layers]
            setattr(layers[0], name, _joined(parts, order, longest if name in ("keys", "values") else None))
    return first


def _joined(parts: Sequence[Any], order: Tensor, longest: int | None) -> Any:
    """What the layers of several caches hold under one name; tensors have the prompts first."""
    if isinstance(parts[0], dict):
        return {key: _joined([part[key] for part in parts], order, longest) for key in parts[0]}
    if isinstance(parts[0], list):
        return [_joined(several, order, longest) for several in zip(*parts, strict=True)]
    if not isinstance(parts[0], Tensor):
        return parts[0]
    if longest is not None:  # (prompts, heads, tokens, width)
        parts = [pad(part, (0, 0, longest - part.shape[-2], 0)) for part in parts]
    return torch.cat(list(parts))[order.to(parts[0].device)]
