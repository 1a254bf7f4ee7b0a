"""Attention over packed sequences in which several completions continue one prompt (packed_layout.py).

A branch sees its trunk and itself, and nothing of other branches.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from invert_rl.grpo.cascade_attention import branch_attention, has_kernels
from invert_rl.grpo.packed_layout import PackedLayout, SharingNotSupportedError

logger = logging.getLogger(__name__)

NAME = "sdpa_with_packed_prompts"
"""Attention implementation of a language model that also takes packed sequences."""


def accept_packed_prompts(config: PretrainedConfig) -> None:
    """Let the attention of a language model also take packed sequences, given by a ``packed_layout`` argument.

    ``config`` is the text configuration that the model's attention modules hold. Without the argument it is torch's
    scaled-dot-product attention, whatever the implementation was before: others know nothing of packed prompts. Raises
    `SharingNotSupportedError` for layers with a sliding window.
    """
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise SharingNotSupportedError(
            "packed prompts do not support sliding windows; set use_sliding_window: false in the model"
        )
    if config._attn_implementation not in ("sdpa", NAME):
        logger.warning("share_prompts: the language model's attention is sdpa, not %s", config._attn_implementation)
    AttentionInterface.register(NAME, _sdpa_or_packed)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config._attn_implementation = NAME


def _sdpa_or_packed(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packed_layout: PackedLayout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    if packed_layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return packed_attention(query, key, value, packed_layout, **kwargs), None


def packed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Attention of one packed sequence; keys and values of a trunk are never repeated for its branches.

    ``query`` is ``(1, heads, length, size)``, ``key`` and ``value`` have the key-value heads; the result is
    ``(1, length, heads, size)``. Where torch has the kernels it takes no mask (`invert_rl.grpo.cascade_attention`),
    otherwise it is `masked_attention`. Raises `ValueError` for several sequences, `SharingNotSupportedError` for
    sliding windows.
    """
    if len(query) != 1 or query.shape[2] != layout.length:
        raise ValueError(f"a packed sequence of {layout.length} tokens is expected, got queries {tuple(query.shape)}")
    if sliding_window is not None:
        raise SharingNotSupportedError("packed prompts do not support sliding windows")
    if torch.is_autocast_enabled(query.device.type):  # as it would for torch's own attention
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    attend = _cascade if has_kernels(query, dropout) else masked_attention
    return attend(query, key, value, layout, scaling, dropout).transpose(1, 2).contiguous()


def _cascade(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """``(1, heads, length, size)`` without any mask."""
    # Split once: the gradient of a slice is as long as the whole sequence, and there are six slices of each tree.
    lengths = [place.stop - place.start for tree in layout.trees for place in (tree.trunk, tree.branches)]
    queries, keys, values = (tensor.split(lengths, dim=2) for tensor in (query, key, value))
    pieces = list(zip(queries, keys, values, strict=True))
    parts = []
    for trunk, branches, tree, (places, tokens) in zip(
        pieces[::2], pieces[1::2], layout.trees, layout.tree_branches, strict=True
    ):
        parts.append(_trunk_attention(*trunk, scaling=scaling, dropout=dropout))
        if tree.lengths:
            parts.append(branch_attention(branches[0], trunk[1:], branches[1:], places, tokens, scaling))
    return torch.cat(parts, dim=2)


def masked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """``(1, heads, length, size)`` by masks ``(branch tokens, trunk + branch tokens)``: any device; the reference."""
    groups = query.shape[1] // key.shape[1]
    parts = []
    for tree, chunks in zip(layout.trees, layout.masked_chunks, strict=True):
        trunk_key, trunk_value = key[:, :, tree.trunk], value[:, :, tree.trunk]
        parts.append(_trunk_attention(query[:, :, tree.trunk], trunk_key, trunk_value, scaling, dropout))
        for place, mask in chunks:  # a mask rules out kernels for grouped queries: repeat the heads instead
            parts.append(
                scaled_dot_product_attention(
                    query[:, :, place],
                    torch.cat([trunk_key, key[:, :, place]], dim=2).repeat_interleave(groups, dim=1),
                    torch.cat([trunk_value, value[:, :, place]], dim=2).repeat_interleave(groups, dim=1),
                    attn_mask=mask,
                    dropout_p=dropout,
                    scale=scaling,
                )
            )
    return torch.cat(parts, dim=2)


def _trunk_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, dropout: float
) -> torch.Tensor:
    """A prompt's attention to itself."""
    grouped = query.shape[1] > key.shape[1]
    return scaled_dot_product_attention(
        query, key, value, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=grouped
    )
