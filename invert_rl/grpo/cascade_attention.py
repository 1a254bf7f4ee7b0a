"""Attention of branches to their trunk and to themselves without a mask: two kernels merged by their log-sum-exp.

All branches of a prompt look at its trunk in one call that is not causal, and each at itself in one causal call for all
of them. With outputs ``o1, o2`` and log-sum-exps ``l1, l2`` the attention over both sets of keys is ``exp(l1 - l) o1 +
exp(l2 - l) o2``, where ``l = log(exp l1 + exp l2)``. Backward, a flash kernel needs of the forward pass only output and
log-sum-exp: given the merged ones, each call's kernel returns its share of the gradients. Nothing of the size of trunk
times branches is kept or made, and key-value heads are not repeated for the query heads of their group.
"""

from __future__ import annotations

from typing import Any

import torch

HALF = (torch.float16, torch.bfloat16)
aten = torch.ops.aten


def has_kernels(query: torch.Tensor, dropout: float) -> bool:
    """Whether torch has the kernels for such queries: on a CPU always, on a GPU in half precision; without dropout."""
    if dropout:
        return False
    if query.device.type == "cuda":
        return query.dtype in HALF and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256
    return query.device.type == "cpu"


def branch_attention(
    query: torch.Tensor,
    trunk: tuple[torch.Tensor, torch.Tensor],
    branches: tuple[torch.Tensor, torch.Tensor],
    places: torch.Tensor,
    tokens: torch.Tensor,
    scaling: float | None = None,
) -> torch.Tensor:
    """Attention of a tree's branches, ``(1, heads, tokens, size)``.

    Args:
        query: of all branches, one after the other, ``(1, heads, tokens, size)``.
        trunk: keys and values of the trunk, ``(1, key-value heads, trunk, size)`` each.
        branches: keys and values of the branches, ``(1, key-value heads, tokens, size)`` each.
        places: for each branch the places of its tokens among those of all, padded by its last one.
        tokens: which of ``places``, laid out flat, are no padding, in the order of ``query``.
        scaling: of the scores; default: one over the root of ``size``.
    """
    return _Cascade.apply(query, *trunk, *branches, places, tokens, scaling)


class _Cascade(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        trunk_key: torch.Tensor,
        trunk_value: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        places: torch.Tensor,
        tokens: torch.Tensor,
        scaling: float | None,
    ) -> torch.Tensor:
        over_trunk, trunk_sum, ctx.trunk_rest = _attend(query, trunk_key, trunk_value, False, scaling)
        padded = (_pad(query, places), _pad(key, places), _pad(value, places))
        over_self, self_sum, ctx.self_rest = _attend(*padded, True, scaling)
        over_self, self_sum = _flatten(over_self, tokens), _flatten(self_sum[..., None], tokens)[..., 0]
        total = torch.logaddexp(trunk_sum, self_sum)
        over_trunk = over_trunk * torch.exp(trunk_sum - total)[..., None]
        output = (over_trunk + over_self * torch.exp(self_sum - total)[..., None]).to(query.dtype)
        ctx.save_for_backward(query, trunk_key, trunk_value, key, value, places, tokens, output, total)
        ctx.scaling = scaling
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, trunk_key, trunk_value, key, value, places, tokens, output, total = ctx.saved_tensors
        by_trunk, d_trunk_key, d_trunk_value = _attend_backward(
            gradient, query, trunk_key, trunk_value, output, total, ctx.trunk_rest, False, ctx.scaling
        )
        own = torch.zeros(places.numel(), dtype=gradient.dtype, device=gradient.device)
        own[tokens] = 1
        padded = _pad(gradient, places) * own.view(len(places), 1, -1, 1)  # nothing comes from the padding
        tensors = (_pad(query, places), _pad(key, places), _pad(value, places), _pad(output, places))
        sums = _pad(total[..., None], places)[..., 0].contiguous()
        grads = _attend_backward(padded, *tensors, sums, ctx.self_rest, True, ctx.scaling)
        by_self, d_key, d_value = (_flatten(grad, tokens) for grad in grads)
        return by_trunk + by_self, d_trunk_key, d_trunk_value, d_key, d_value, None, None, None


def _pad(tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """``(1, heads, tokens, size)`` as one row for each branch, ``(branches, heads, longest, size)``."""
    return tensor[0][:, places].transpose(0, 1)


def _flatten(tensor: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The way back: ``(1, heads, tokens, size)``."""
    return tensor.transpose(0, 1).flatten(1, 2)[:, tokens][None]


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, scaling: float | None
) -> tuple[torch.Tensor, torch.Tensor, tuple[Any, ...]]:
    """Output, log-sum-exp ``(batch, heads, length)``, and what else the backward kernel of this device wants."""
    if query.device.type == "cpu":
        output, sums = aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, scale=scaling)
        return output, sums, ()
    output, sums, *rest = aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, scale=scaling)
    return output, sums, tuple(rest[:6])


def _attend_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    sums: torch.Tensor,
    rest: tuple[Any, ...],
    causal: bool,
    scaling: float | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key and value."""
    if query.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, query, key, value, output, sums, 0.0, causal, scale=scaling
        )
    query_ends, key_ends, longest_query, longest_key, seed, offset = rest
    return aten._scaled_dot_product_flash_attention_backward(
        gradient,
        query,
        key,
        value,
        output,
        sums,
        query_ends,
        key_ends,
        longest_query,
        longest_key,
        0.0,
        causal,
        seed,
        offset,
        scale=scaling,
    )
