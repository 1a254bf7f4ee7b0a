"""Scoring in which each different prompt, its video included, is forwarded once for all of its completions.

A group's G completions share one prompt of hundreds or thousands of tokens. Here vision tower and language model run
over each prompt once and keep their cache; the completions alone are repeated on it. Log-probabilities and gradients
are those of the plain forward over G copies, up to rounding.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from invert_rl.encoding import EncodedPrompt, batch_inputs
from invert_rl.grpo.rollout import vision_language_model


@dataclass(frozen=True)
class SharedPrompts:
    """The different prompts of a batch and which of them each row has."""

    inputs: dict[str, torch.Tensor]
    """Left-padded model inputs of the different prompts."""
    rows: torch.Tensor
    """For each row of the batch the number of its prompt, shape ``(batch,)``."""
    completion_length: int
    """Tokens of a row that belong to the completion: its last ones, padding included."""


def share_prompts(
    prompts: Sequence[EncodedPrompt], completion_length: int, pad_token_id: int, device: torch.device
) -> SharedPrompts:
    """Collect the different prompts of a batch; rows of one group hold the same `EncodedPrompt` object."""
    unique = list({id(prompt): prompt for prompt in prompts}.values())
    place = {id(prompt): number for number, prompt in enumerate(unique)}
    inputs = {name: tensor.to(device) for name, tensor in batch_inputs(unique, pad_token_id).items()}
    rows = torch.tensor([place[id(prompt)] for prompt in prompts], device=device)
    return SharedPrompts(inputs, rows, completion_length)


def add_shared_prompts(model: nn.Module) -> None:
    """Let ``model(…, shared_prompts=…)`` forward the prompts once and the completions on their cache.

    Call it on the bare model after TRL's `add_fused_lm_head`; without ``shared_prompts`` nothing changes. Both passes
    happen inside one forward of the (possibly wrapped) model.
    """
    forward = model.forward

    @functools.wraps(type(model).forward)  # `generate` reads the signature
    def shared_forward(self: nn.Module, *args: Any, shared_prompts: SharedPrompts | None = None, **kwargs: Any) -> Any:
        if shared_prompts is None:
            return forward(*args, **kwargs)
        return _forward_completions(self, forward, shared_prompts, **kwargs)

    model.forward = types.MethodType(shared_forward, model)


def _forward_completions(
    model: nn.Module,
    forward: Any,
    shared: SharedPrompts,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    labels: torch.Tensor,
    mm_token_type_ids: torch.Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """Two passes: all of each prompt but its last token, then that token and the completion of every row."""
    inner = vision_language_model(model)
    inputs = dict(shared.inputs)
    ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
    types_, grids = inputs.pop("mm_token_type_ids"), inputs["video_grid_thw"]
    seconds = {name: inputs[name] for name in ("second_per_grid_ts",) if name in inputs}
    positions, deltas = inner.get_rope_index(
        ids, mm_token_type_ids=types_, video_grid_thw=grids, attention_mask=mask, **seconds
    )
    cache = DynamicCache(config=model.config.get_text_config())
    inner(
        input_ids=ids[:, :-1],
        attention_mask=mask[:, :-1],
        position_ids=positions[:, :, :-1],
        mm_token_type_ids=types_[:, :-1],
        past_key_values=cache,
        use_cache=True,
        **inputs,
    )
    cache.batch_select_indices(shared.rows)

    kept = shared.completion_length + 1
    next_position = (deltas[:, 0] + mask.sum(dim=1))[shared.rows]
    offsets = torch.arange(-1, kept - 1, device=ids.device)
    return forward(
        input_ids=input_ids[:, -kept:],
        attention_mask=torch.cat([mask[shared.rows, :-1], attention_mask[:, -kept:]], dim=1),
        position_ids=(next_position[:, None] + offsets).expand(3, -1, -1),
        past_key_values=cache,
        labels=labels[:, -kept:],
        **kwargs,
    )
