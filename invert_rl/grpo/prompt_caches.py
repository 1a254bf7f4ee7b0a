"""Caches of prompts: forwarded apart and joined as one, and with room for the tokens that are generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens that a layer's keys and values can grow by until they are copied."""


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


def roomy_cache(config: PretrainedConfig) -> DynamicCache:
    """An empty cache for a language model of that configuration whose keys and values are not copied for each token."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class RoomyLayer(DynamicLayer):
    """Keys and values at the beginning of tensors that have room for more.

    transformers' own layer makes new tensors, prompt and all, for each token that is generated.
    """

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._rooms: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append states ``(rows, heads, tokens, size)``; returns all keys and all values, views of the room."""
        start = self.get_seq_length()
        if start == 0:
            return super().update(key_states, value_states, *args, **kwargs)
        end = start + key_states.shape[-2]
        if self._rooms is None or self._rooms[0].data_ptr() != self.keys.data_ptr() or end > self._rooms[0].shape[-2]:
            self._rooms = _with_room(self.keys, end), _with_room(self.values, end)
        keys, values = self._rooms
        keys[:, :, start:end], values[:, :, start:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values


def _with_room(states: Tensor, needed: int) -> Tensor:
    """A larger tensor that begins with ``states``, ``(rows, heads, tokens, size)``."""
    rows, heads, tokens, size = states.shape
    room = states.new_empty(rows, heads, needed + ROOM, size)
    room[:, :, :tokens] = states
    return room
