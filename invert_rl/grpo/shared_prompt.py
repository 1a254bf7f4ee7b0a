"""Scoring in which each different prompt, its video included, is forwarded once for all of its completions.

A group's G completions share one prompt of hundreds or thousands of tokens. Here one sequence without padding holds
every prompt once and all completions after it; vision tower and language model run over it in one forward, with
gradient checkpointing or without. Attention (`invert_rl.grpo.packed_attention`) and layers with a state
(`invert_rl.grpo.packed_recurrence`) keep completions apart; everything else sees tokens by themselves.
Log-probabilities, gradients and the router losses of experts are those of the plain forward over G copies, up to
rounding.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from invert_rl.encoding import EncodedPrompt, batch_inputs
from invert_rl.grpo import packed_attention, packed_recurrence
from invert_rl.grpo.packed_layout import PackedLayout, SharingNotSupportedError
from invert_rl.models import family_of, vision_language_model


class SharedPrompts:
    """The different prompts of a batch and which of them each row has.

    Not a dataclass: wrappers such as FSDP walk through dataclasses among a module's inputs and cast what they find.
    Raises `ValueError` for a prompt of a single token, of which there is nothing to share.
    """

    def __init__(self, prompts: Sequence[EncodedPrompt], completion_length: int) -> None:
        if any(len(prompt.input_ids) < 2 for prompt in prompts):
            raise ValueError("a prompt of one token cannot be shared: prompts end with the opening of an answer")
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
    of the output then have the shape ``(batch, completion_length)``; without ``fused_lm_head`` the logits have, with
    the vocabulary behind. Raises `SharingNotSupportedError` if a layer of the model cannot work on packed sequences.
    """
    _accept_packed_prompts(model)
    forward = model.forward

    @functools.wraps(type(model).forward)  # `generate` reads the signature
    def shared_forward(self: nn.Module, *args: Any, shared_prompts: SharedPrompts | None = None, **kwargs: Any) -> Any:
        if shared_prompts is None:
            return forward(*args, **kwargs)
        return _forward_packed(self, forward, shared_prompts, **kwargs)

    model.forward = types.MethodType(shared_forward, model)


def _accept_packed_prompts(model: nn.Module) -> None:
    config = model.config.get_text_config()
    recurrent_class = family_of(model).recurrent_class
    recurrent = [module for module in model.modules() if type(module).__name__ == recurrent_class]
    kinds = getattr(config, "layer_types", None) or []
    if len(recurrent) != kinds.count("linear_attention"):
        raise SharingNotSupportedError(
            f"{config.model_type}: {kinds.count('linear_attention')} layers carry a state, {len(recurrent)} of them "
            f"are of the kind that packed prompts know ({recurrent_class})"
        )
    packed_attention.accept_packed_prompts(config)
    for layer in recurrent:
        packed_recurrence.accept_packed_prompts(layer)


def _forward_packed(
    model: nn.Module,
    forward: Any,
    shared: SharedPrompts,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    labels: torch.Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """One pass over the packed sequence; the head sees only the states that predict completion tokens."""
    inner = vision_language_model(model)
    length = shared.completion_length
    config = model.config.get_text_config()
    with_router = kwargs.get("output_router_logits") or getattr(config, "output_router_logits", False)
    inputs, layout, places, copies = _pack(inner, shared, input_ids, attention_mask, whole=bool(with_router))

    def drop_weights(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "attention_mask": None}

    def keep_predicting(_module: nn.Module, _args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[0, places]  # (batch, completion_length, hidden)
        return output

    handles = [inner.register_forward_hook(keep_predicting)]
    if with_router:  # the router's loss weighs tokens by the mask, which is none to the layers
        inputs["attention_mask"] = copies
        handles.append(inner.register_forward_pre_hook(drop_weights, with_kwargs=True))
    try:
        if labels is not None:
            kwargs["shift_labels"] = labels[:, -length:]
        return forward(**inputs, packed_layout=layout, **kwargs)
    finally:
        for handle in handles:
            handle.remove()


def _pack(
    inner: nn.Module, shared: SharedPrompts, input_ids: torch.Tensor, attention_mask: torch.Tensor, whole: bool = False
) -> tuple[dict[str, torch.Tensor], PackedLayout, torch.Tensor, torch.Tensor]:
    """Inputs of the packed sequence, its layout, where states predict, and how often each token is there in copies.

    A trunk is a prompt without its last token. A branch is that token and the completion without its last one, so that
    the states of a branch predict the completion; with ``whole`` the last one too, which predicts nothing but counts
    for a router. The third value ``(batch, completion_length)`` is where the state lies that predicts each completion
    token, 0 for padding; the fourth ``(1, length)`` is in how many copies of prompt and completion a token would be.
    """
    length, device = shared.completion_length, input_ids.device
    inputs = batch_inputs(shared.prompts, pad_token_id=0)
    mask = inputs.pop("attention_mask")
    seconds = {name: inputs.pop(name) for name in ("second_per_grid_ts",) if name in inputs}
    prompt_ids = inputs.pop("input_ids")
    positions, _ = inner.get_rope_index(
        input_ids=prompt_ids,
        mm_token_type_ids=inputs.pop("mm_token_type_ids"),
        video_grid_thw=inputs.get("video_grid_thw"),
        attention_mask=mask,
        **seconds,
    )
    completions = input_ids[:, -length:].cpu()
    lengths = attention_mask[:, -length:].sum(dim=1).tolist()
    ids, places, trees = [], torch.zeros(len(input_ids), length, dtype=torch.long), []
    packed_positions, copies, start = [], [], 0
    for number, prompt in enumerate(shared.prompts):
        trunk = len(prompt.input_ids) - 1
        rows = [row for row, its_prompt in enumerate(shared.rows) if its_prompt == number]
        ids.append(prompt_ids[number, -trunk - 1 : -1])
        packed_positions.append(positions[:, number, -trunk - 1 : -1])
        copies.append(torch.full((trunk,), len(rows)))
        start += trunk
        last_position = positions[:, number, -1:]  # a prompt ends with text, which goes on one by one
        tokens = []
        for row in rows:
            predicting = lengths[row]
            tokens.append(predicting + int(whole))
            ids.append(torch.cat([prompt_ids[number, -1:], completions[row, :predicting]])[: tokens[-1]])
            packed_positions.append(last_position + torch.arange(tokens[-1]))
            copies.append(torch.ones(tokens[-1], dtype=torch.long))
            places[row, :predicting] = torch.arange(start, start + predicting)
            start += tokens[-1]
        trees.append((trunk, tokens))
    inputs["input_ids"] = torch.cat(ids)[None]
    inputs["position_ids"] = torch.cat(packed_positions, dim=1)[:, None]
    inputs = {name: value.to(device) for name, value in inputs.items()}
    return inputs, PackedLayout(trees, device), places.to(device), torch.cat(copies)[None].to(device)
