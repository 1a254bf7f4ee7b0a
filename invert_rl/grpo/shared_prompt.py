"""Scoring in which each different prompt, its video included, is forwarded once for all of its completions.

A group's G completions share one prompt of hundreds or thousands of tokens. Here one sequence without padding holds
every prompt once and all completions after it (`invert_rl.grpo.packed_attention`); vision tower and language model run
over it in one forward, with gradient checkpointing or without. Log-probabilities and gradients are those of the plain
forward over G copies, up to rounding.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from invert_rl.encoding import EncodedPrompt, batch_inputs
from invert_rl.grpo.packed_attention import PackedLayout, accept_packed_prompts
from invert_rl.models import vision_language_model


class SharedPrompts:
    """The different prompts of a batch and which of them each row has.

    Not a dataclass: wrappers such as FSDP walk through dataclasses among a module's inputs and cast what they find.
    """

    def __init__(self, prompts: Sequence[EncodedPrompt], completion_length: int) -> None:
        self.prompts = list({id(prompt): prompt for prompt in prompts}.values())
        """Different prompts; rows of one group hold the same `EncodedPrompt` object."""
        place = {id(prompt): number for number, prompt in enumerate(self.prompts)}
        self.rows = [place[id(prompt)] for prompt in prompts]
        """For each row of the batch the number of its prompt."""
        self.completion_length = completion_length
        """Tokens of a row that belong to the completion: its last ones, padding included."""


def add_shared_prompts(model: nn.Module) -> None:
    """Let ``model(…, shared_prompts=SharedPrompts(…), fused_lm_head=True)`` forward each prompt once.

    Call it on the bare model after TRL's `add_fused_lm_head`; without ``shared_prompts`` nothing changes. The fields
    of the output then have the shape ``(batch, completion_length)``.
    """
    accept_packed_prompts(model.config.get_text_config())
    forward = model.forward

    @functools.wraps(type(model).forward)  # `generate` reads the signature
    def shared_forward(self: nn.Module, *args: Any, shared_prompts: SharedPrompts | None = None, **kwargs: Any) -> Any:
        if shared_prompts is None:
            return forward(*args, **kwargs)
        return _forward_packed(self, forward, shared_prompts, **kwargs)

    model.forward = types.MethodType(shared_forward, model)


def _forward_packed(
    model: nn.Module,
    forward: Any,
    shared: SharedPrompts,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    labels: torch.Tensor,
    **kwargs: Any,
) -> Any:
    """One pass over the packed sequence; the head sees only the states that predict completion tokens."""
    inner = vision_language_model(model)
    length = shared.completion_length
    inputs, layout, places = _pack(inner, shared, input_ids, attention_mask)

    def keep_predicting(_module: nn.Module, _args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[0, places]  # (batch, completion_length, hidden)
        return output

    handle = inner.register_forward_hook(keep_predicting)
    try:
        return forward(**inputs, packed_layout=layout, shift_labels=labels[:, -length:], **kwargs)
    finally:
        handle.remove()


def _pack(
    inner: nn.Module, shared: SharedPrompts, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> tuple[dict[str, torch.Tensor], PackedLayout, torch.Tensor]:
    """Inputs of the packed sequence, its layout, and where the state lies that predicts each completion token.

    A trunk is a prompt without its last token. A branch is that token and the completion without its last one, so that
    the states of a branch predict the completion. The third value is ``(batch, completion_length)``, 0 for padding.
    """
    length, device = shared.completion_length, input_ids.device
    inputs = batch_inputs(shared.prompts, pad_token_id=0)
    mask = inputs.pop("attention_mask")
    seconds = {name: inputs.pop(name) for name in ("second_per_grid_ts",) if name in inputs}
    prompt_ids = inputs.pop("input_ids")
    positions, deltas = inner.get_rope_index(
        prompt_ids,
        mm_token_type_ids=inputs.pop("mm_token_type_ids"),
        video_grid_thw=inputs["video_grid_thw"],
        attention_mask=mask,
        **seconds,
    )
    completions = input_ids[:, -length:].cpu()
    lengths = attention_mask[:, -length:].sum(dim=1).tolist()
    ids, places, trees = [], torch.zeros(len(input_ids), length, dtype=torch.long), []
    packed_positions, start = [], 0
    for number, prompt in enumerate(shared.prompts):
        trunk = len(prompt.input_ids) - 1
        ids.append(prompt_ids[number, -trunk - 1 : -1])
        packed_positions.append(positions[:, number, -trunk - 1 : -1])
        start += trunk
        next_position = int(deltas[number]) + trunk + 1
        rows = [row for row, its_prompt in enumerate(shared.rows) if its_prompt == number]
        for row in rows:
            tokens = lengths[row]
            ids.append(torch.cat([prompt_ids[number, -1:], completions[row, :tokens]])[:tokens])
            packed_positions.append((next_position - 1 + torch.arange(tokens)).expand(3, -1))
            places[row, :tokens] = torch.arange(start, start + tokens)
            start += tokens
        trees.append((trunk, [lengths[row] for row in rows]))
    inputs["input_ids"] = torch.cat(ids)[None]
    inputs["position_ids"] = torch.cat(packed_positions, dim=1)[:, None]
    inputs = {name: value.to(device) for name, value in inputs.items()}
    return inputs, PackedLayout(trees, device), places.to(device)
