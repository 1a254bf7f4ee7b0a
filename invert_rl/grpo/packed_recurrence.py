"""Layers that carry a state from token to token (Gated DeltaNet) on packed sequences.

Run over a packed sequence as it is, such a layer would carry the state of one completion into the next. Here it runs
over each trunk, and then over the branches side by side, each from a copy of its trunk's final states: that of the
convolution and that of the recurrence, with their graph. All of it happens inside the layer, so gradient checkpointing,
adapters and sharded parameters work as ever, and it is the layer's own ``forward`` that computes.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch import nn

from invert_rl.grpo.packed_layout import PackedLayout


class LayerState:
    """The states of one layer, in the part of a transformers `Cache` that such a layer asks.

    Unlike a `Cache` it keeps what it is given, with its graph, where that copies values into buffers.

    Args:
        convolution: the last inputs of the convolution, ``(batch, channels, kernel)``; None at the start.
        recurrent: state of the recurrence, ``(batch, heads, key size, value size)``; None at the start.
    """

    record_past = True  # or a single token would go the way of `generate`, by kernels without a backward pass

    def __init__(self, convolution: torch.Tensor | None = None, recurrent: torch.Tensor | None = None) -> None:
        self.convolution = convolution
        self.recurrent = recurrent
        self.conv_states, self.recurrent_states = {0: convolution}, {0: recurrent}  # transformers 5.17 looks here

    @property
    def layers(self) -> LayerState:
        """Stands for every layer: it is only ever handed to one."""
        return self

    def __getitem__(self, layer: int) -> LayerState:
        return self

    def has_previous_state(self, *_: Any, **__: Any) -> bool:
        """Whether there is anything to continue from."""
        return self.convolution is not None

    def is_recording_past(self, *_: Any) -> bool:
        """See `record_past`."""
        return self.record_past

    def get_conv_state(self, *_: Any, **__: Any) -> torch.Tensor | None:
        """Of the convolution."""
        return self.convolution

    def get_recurrent_state(self, *_: Any, **__: Any) -> torch.Tensor | None:
        """Of the recurrence."""
        return self.recurrent

    def update_conv_state(self, inputs: torch.Tensor, *_: Any, conv_kernel_size: int, **__: Any) -> torch.Tensor:
        """Inputs of the convolution with those before them; the last ones are kept."""
        if self.convolution is not None:
            inputs = torch.cat([self.convolution, inputs], dim=-1)
        missing = max(0, conv_kernel_size - inputs.shape[-1])
        self.convolution = nn.functional.pad(inputs, (missing, 0))[..., -conv_kernel_size:]
        return inputs

    def update_recurrent_state(self, state: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """The state after the last token is kept."""
        self.recurrent = state
        return state


def accept_packed_prompts(layer: nn.Module) -> None:
    """Let a Gated DeltaNet layer also take packed sequences, given by a ``packed_layout`` argument.

    Without the argument nothing changes.
    """
    forward = layer.forward

    @functools.wraps(type(layer).forward)
    def packed_forward(
        self: nn.Module,
        hidden_states: torch.Tensor,
        *args: Any,
        packed_layout: PackedLayout | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        if packed_layout is None:
            return forward(hidden_states, *args, **kwargs)
        return _packed_recurrence(forward, hidden_states, packed_layout)

    layer.forward = types.MethodType(packed_forward, layer)


def _packed_recurrence(forward: Any, hidden: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
    """The layer's output ``(1, length, size)``: trunks first, then all branches in one batch from their states."""
    outputs, states = [], []
    for tree in layout.trees:
        state = LayerState()
        outputs.append(forward(hidden[:, tree.trunk], cache_params=state)[0])
        states.append(state)
    if len(layout.branch_trees):
        convolution, recurrent = (
            torch.cat([getattr(state, name) for state in states]).index_select(0, layout.branch_trees)
            for name in ("convolution", "recurrent")
        )
        branches = forward(hidden[0, layout.branch_places], cache_params=LayerState(convolution, recurrent))
        outputs.append(branches.flatten(0, 1)[layout.branch_tokens])
    return torch.cat(outputs)[layout.order][None]
