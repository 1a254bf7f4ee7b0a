"""Attention over packed sequences in which several completions continue one prompt.

A packed sequence holds, for each different prompt, its tokens once (the trunk) and after them the tokens of all of its
completions (the branches), without any padding. A branch sees its trunk and itself, and nothing of other branches.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

logger = logging.getLogger(__name__)

NAME = "sdpa_with_packed_prompts"
"""Attention implementation of a language model that also takes packed sequences."""

LEAST_CHUNK = 256
"""Branches of at least so many tokens are worked on at a time, even if their trunk is shorter."""


class PackedLayout:
    """Where trunks and branches lie in a packed sequence, and which branch tokens see each other.

    Not a dataclass: wrappers such as FSDP walk through dataclasses among a module's inputs and cast what they find.

    Args:
        trees: for each prompt the length of its trunk and the lengths of its branches, tokens.
        device: where the masks are wanted.
    """

    def __init__(self, trees: Sequence[tuple[int, Sequence[int]]], device: torch.device) -> None:
        self.trees: list[tuple[slice, list[tuple[slice, torch.Tensor]]]] = []
        """For each prompt its trunk's place and its chunks: place and mask ``(tokens, trunk + tokens)``, bool."""
        start = 0
        for trunk, branches in trees:
            place = slice(start, start + trunk)
            start += trunk
            chunks = []
            for lengths in _chunks(branches, max(trunk, LEAST_CHUNK)):
                chunks.append((slice(start, start + sum(lengths)), _branch_mask(trunk, lengths, device)))
                start += sum(lengths)
            self.trees.append((place, chunks))
        self.length = start
        """Tokens of the whole sequence."""


def _chunks(branches: Sequence[int], limit: int) -> list[list[int]]:
    """Neighbouring branches in lists of at most ``limit`` tokens, or of one branch if that is longer."""
    chunks: list[list[int]] = []
    for length in branches:
        if not length:
            continue
        if chunks and sum(chunks[-1]) + length <= limit:
            chunks[-1].append(length)
        else:
            chunks.append([length])
    return chunks


def _branch_mask(trunk: int, lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    blocks = [torch.ones(length, length, dtype=torch.bool, device=device).tril() for length in lengths]
    branches = torch.block_diag(*blocks).bool()
    return torch.cat([branches.new_ones(len(branches), trunk), branches], dim=1)


def accept_packed_prompts(config: PretrainedConfig) -> None:
    """Let the attention of a language model also take packed sequences, given by a ``packed_layout`` argument.

    ``config`` is the text configuration that the model's attention modules hold. Without the argument it is torch's
    scaled-dot-product attention, whatever the implementation was before: others know nothing of packed prompts.
    """
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
    ``(1, length, heads, size)``. Raises `ValueError` for several sequences or sliding windows.
    """
    if len(query) != 1 or query.shape[2] != layout.length:
        raise ValueError(f"a packed sequence of {layout.length} tokens is expected, got queries {tuple(query.shape)}")
    if sliding_window is not None:
        raise ValueError("packed prompts do not support sliding windows; set use_sliding_window: false in the model")
    groups = query.shape[1] // key.shape[1]
    parts = []
    for trunk, chunks in layout.trees:
        trunk_key, trunk_value = key[:, :, trunk], value[:, :, trunk]
        parts.append(
            scaled_dot_product_attention(
                query[:, :, trunk],
                trunk_key,
                trunk_value,
                dropout_p=dropout,
                scale=scaling,
                is_causal=True,
                enable_gqa=groups > 1,
            )
        )
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
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()
