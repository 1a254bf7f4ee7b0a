"""The vision tower's attention in few calls: all windows or frames of one size together, not one after the other.

The tower attends within segments of a long sequence: windows (Qwen2.5-VL) or frames. Without FlashAttention's kernels
transformers cuts the sequence apart in Python and calls the kernel once for each: 360 times per window layer at a grid
of 30 x 18 x 26 patches, after waiting for the GPU to learn where to cut. Segments come in few sizes (whole windows,
those cut by the right, the lower edge and the corner; frames of each video), so here those of one size go as one batch,
and where they lie is looked up once for all layers of a pass. Windows are put in order of size before the first layer,
so that a batch is a view; only the few layers that see whole frames permute their tokens.

Patches are projected by one matrix product: a convolution whose kernel is as large as its stride is one, but its own
kernels take several times as long for it.
"""

from __future__ import annotations

import functools
import types
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_window_index

from invert_rl.models.family import vision_language_model

NAME = "sdpa_like_flash_by_segments"
"""Attention implementation of a vision tower. For a name with "flash" in it, transformers hands over the sequence with
the ends of its segments and does not cut."""


class Plan(NamedTuple):
    """Segments by size."""

    batches: list[tuple[int, int]]
    """Segments of one size: how many, and tokens of each."""
    order: torch.Tensor | None
    """Place in the sequence of each token of the batches, one after the other; None if they are in order already."""
    back: torch.Tensor | None
    """Where each token of the sequence is among the batches."""


_plans: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Plan of each tensor of segment ends, as long as that is there: the layers of a pass get the same one."""


def attend_by_segments(model: nn.Module) -> bool:
    """Let a model's vision tower attend to all of its segments in few calls; returns whether that changed anything.

    Only a tower with torch's attention is changed, the default: FlashAttention takes all segments at once by itself.
    """
    tower = vision_language_model(model).visual
    if tower.config._attn_implementation != "sdpa":
        return False
    use_segments(tower)
    return True


def use_segments(tower: nn.Module) -> None:
    """The same for a vision tower by itself."""
    AttentionInterface.register(NAME, _segment_attention)
    tower.config._attn_implementation = NAME
    projection = tower.patch_embed.proj
    projection.forward = types.MethodType(_project, projection)
    if not hasattr(tower.config, "window_size"):
        return
    forward = tower.forward

    @functools.wraps(type(tower).forward)
    def with_sorted_windows(self: nn.Module, hidden_states: torch.Tensor, grid_thw: torch.Tensor, **kwargs: Any) -> Any:
        if self.config._attn_implementation == NAME:
            kwargs = {**_sorted_windows(self.config, grid_thw), **kwargs}
        return forward(hidden_states, grid_thw=grid_thw, **kwargs)

    tower.forward = types.MethodType(with_sorted_windows, tower)


def _project(self: nn.Conv3d, patches: torch.Tensor) -> torch.Tensor:
    """The convolution of patches ``(n, channels, time, height, width)`` of its kernel's size, ``(n, out, 1, 1, 1)``."""
    return linear(patches.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]


def _sorted_windows(config: Any, grid_thw: torch.Tensor) -> dict[str, torch.Tensor]:
    """Order and ends of windows, largest first, as the tower takes them, and the ends of frames.

    Frames are then no longer in one piece: the plan for their ends knows where their tokens are.
    """
    unit = config.spatial_merge_size**2
    index, ends = get_vision_window_index(
        grid_thw,
        spatial_merge_size=config.spatial_merge_size,
        window_size=config.window_size,
        patch_size=config.patch_size,
    )
    sizes = ends.diff().cpu() // unit
    order = torch.argsort(sizes, descending=True, stable=True)
    windows = index.split(sizes.tolist())
    index = torch.cat([windows[number] for number in order.tolist()])
    places = (index.cpu()[:, None] * unit + torch.arange(unit)).flatten()
    frames = get_vision_cu_seqlens(grid_thw)
    _plans[frames] = _plan(frames.tolist(), frames.device, torch.argsort(places))
    sorted_ends = nn.functional.pad((sizes[order] * unit).cumsum(0), (1, 0)).to(ends)
    return {"window_index": index, "cu_window_seqlens": sorted_ends, "cu_seqlens": frames}


def plan(ends: torch.Tensor) -> Plan:
    """How to batch the segments that end at ``ends``, ``(segments + 1,)`` with 0 in front."""
    known = _plans.get(ends)
    if known is None:
        known = _plans[ends] = _plan(ends.tolist(), ends.device)
    return known


def _plan(ends: list[int], device: torch.device, places_of: torch.Tensor | None = None) -> Plan:
    """Segments by size; ``places_of`` says where in the sequence each token is, if they are not in order."""
    starts: dict[int, list[int]] = {}
    for start, end in zip(ends, ends[1:], strict=False):
        if end > start:
            starts.setdefault(end - start, []).append(start)
    batches = [(len(places), size) for size, places in starts.items()]
    places = [(torch.tensor(first)[:, None] + torch.arange(size)).flatten() for size, first in starts.items()]
    order = torch.cat(places) if places_of is None else places_of[torch.cat(places)]
    if torch.equal(order, torch.arange(len(order))):
        return Plan(batches, None, None)
    return Plan(batches, order.to(device), torch.argsort(order).to(device))


class _Permute(torch.autograd.Function):
    """Rows in another order; backward they are taken back in order, which is faster than adding them up."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, order: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(order, back)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        _, back = ctx.saved_tensors
        return gradient.index_select(0, back), None, None


def _segment_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """``query``, ``key`` and ``value`` are ``(1, heads, tokens, size)``; the result is ``(1, tokens, heads, size)``."""
    assert cu_seq_lens_q is not None
    batches, order, back = plan(cu_seq_lens_q)
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # (tokens, heads, size)
    if order is not None:
        rows = [_Permute.apply(tensor, order, back) for tensor in rows]
    parts = []
    tokens = [count * size for count, size in batches]
    for (count, size), *part in zip(batches, *(tensor.split(tokens) for tensor in rows), strict=True):
        ours, keys, values = (tensor.unflatten(0, (count, size)).transpose(1, 2) for tensor in part)
        output = scaled_dot_product_attention(ours, keys, values, dropout_p=dropout, scale=scaling)
        parts.append(output.transpose(1, 2).flatten(0, 1))
    together = torch.cat(parts) if len(parts) > 1 else parts[0]
    return (together if order is None else _Permute.apply(together, back, order))[None], None
