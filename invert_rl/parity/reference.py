"""The trainer's side of the comparison: plain forwards of transformers over prompt and completion.

Nothing is shared or packed here: one row for each completion, as slow and as simple as can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from invert_rl.encoding import EncodedPrompt, video_inputs
from invert_rl.grpo.scoring import token_types
from invert_rl.models import vision_language_model

Completions = Sequence[Sequence[int]]
"""Token ids of the completions of one prompt."""


@dataclass(frozen=True)
class Variant:
    """One way to compute otherwise than is right, to see whether an engine does just that."""

    stock_positions: bool = False
    """Qwen2.5-VL: positions as transformers counts them, not as the weights were trained."""
    seconds: float | None = None
    """Seconds between grid steps instead of the true ones, for models that are told them as a number."""
    seconds_factor: float = 1.0
    ban: bool = True
    """The tokens that must not be sampled share no probability."""
    temperature: bool = True
    """Log-probabilities are those after temperature."""
    other_precision: bool = False
    """Half for a trainer in float32, float32 for one in half precision."""


RIGHT = Variant()


class Reference:
    """Scores completions as training does: ``model`` in evaluation mode, under autocast where ``dtype`` is half.

    Args:
        banned: token ids that are not sampled.
        temperature: of sampling.
        dtype: the precision in which the trainer's forward computes.
    """

    def __init__(
        self, model: PreTrainedModel, banned: Sequence[int], temperature: float, dtype: torch.dtype = torch.float32
    ) -> None:
        self.model, self.banned, self.temperature, self.dtype = model.eval(), list(banned), temperature, dtype

    def score(
        self, prompts: Sequence[EncodedPrompt], completions: Sequence[Completions], variant: Variant = RIGHT
    ) -> list[torch.Tensor]:
        """For each prompt the log-probabilities of all tokens of its completions, one after the other."""
        return [
            part
            for prompt, mine in zip(prompts, completions, strict=True)
            for part in self._score([prompt], [mine], variant)
        ]

    def score_together(
        self, prompts: Sequence[EncodedPrompt], completions: Sequence[Completions]
    ) -> list[torch.Tensor]:
        """The same in one batch, backwards and behind padding: what differs is rounding."""
        return self._score(prompts[::-1], completions[::-1], RIGHT)[::-1]

    def positions(self, prompt: EncodedPrompt, variant: Variant = RIGHT) -> torch.Tensor:
        """M-RoPE rows of a prompt, shape ``(3, tokens)`` for time, height and width."""
        prompt = _with_seconds(prompt, variant)
        inputs = {name: value for name, value in video_inputs([prompt]).items() if name != "pixel_values_videos"}
        ids = torch.tensor([prompt.input_ids])
        types = torch.tensor([prompt.mm_token_type_ids])
        with _positions_of(self.model, variant):
            found, _ = vision_language_model(self.model).get_rope_index(
                input_ids=ids, mm_token_type_ids=types, attention_mask=torch.ones_like(ids), **inputs
            )
        return found[:, 0]

    @torch.no_grad()
    def unlikeliest(self, prompt: EncodedPrompt, size: int) -> int:
        """The token among the first ``size`` that the model is least likely to begin its answer with."""
        inputs = {"input_ids": torch.tensor([prompt.input_ids]), "mm_token_type_ids": [prompt.mm_token_type_ids]}
        inputs["mm_token_type_ids"] = torch.tensor(inputs["mm_token_type_ids"])
        with self._precision(RIGHT):
            logits = self.model(**self._moved({**inputs, **video_inputs([prompt])}), logits_to_keep=1).logits[0, -1]
        logits = logits[:size].float()
        logits[[token for token in self.banned if token < size]] = torch.inf
        return int(logits.argmin())

    @torch.no_grad()
    def score_after_prefix(
        self,
        prompts: Sequence[EncodedPrompt],
        completions: Sequence[Completions],
        lengths: Sequence[int],
        swap: Callable[[], None],
    ) -> list[torch.Tensor]:
        """Scores where keys and values of each prompt's first tokens are those of before ``swap`` was called.

        ``lengths`` are how many tokens of each. What comes after them reads the old keys and values and computes its
        own anew, as an engine does whose prefix cache outlives a change of weights.
        """
        caches = []
        for prompt in prompts:
            caches.append(DynamicCache(config=self.model.config.get_text_config()))
            self._score([prompt], [[[0]]], RIGHT, caches[-1])
        swap()
        return [
            part
            for prompt, mine, cache, length in zip(prompts, completions, caches, lengths, strict=True)
            for part in self._score([prompt], [mine], RIGHT, _OldPrefix(self.model, cache, length))
        ]

    @torch.no_grad()
    def _score(
        self,
        prompts: Sequence[EncodedPrompt],
        completions: Sequence[Completions],
        variant: Variant,
        cache: DynamicCache | None = None,
    ) -> list[torch.Tensor]:
        prompts = [_with_seconds(prompt, variant) for prompt in prompts]
        ids, mask = _rows(prompts, completions)
        shown = [prompt for prompt, mine in zip(prompts, completions, strict=True) for _ in mine]
        keep = ids.shape[1] - max(len(prompt.input_ids) for prompt in prompts) + 1
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": token_types(shown, ids.shape[1], keep - 1),
            **video_inputs(shown),
        }
        with _positions_of(self.model, variant), self._precision(variant):
            logits = self.model(
                **self._moved(inputs), logits_to_keep=keep, past_key_values=cache, use_cache=cache is not None
            ).logits
        return self._read(logits, ids, prompts, completions, variant)

    def _read(
        self,
        logits: torch.Tensor,
        ids: torch.Tensor,
        prompts: Sequence[EncodedPrompt],
        completions: Sequence[Completions],
        variant: Variant,
    ) -> list[torch.Tensor]:
        """Log-probabilities of the tokens, from ``logits`` of the last of each prompt's and of all completions'."""
        logits = logits[:, :-1].float()
        if variant.ban:
            logits[..., self.banned] = -torch.inf
        if variant.temperature:
            logits = logits / self.temperature
        tokens = ids[:, -logits.shape[1] :].to(logits.device)
        scores = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0].cpu()
        found, row = [], 0
        for mine in completions:
            found.append(torch.cat([scores[row + number, : len(one)] for number, one in enumerate(mine)]))
            row += len(mine)
        return found

    def _precision(self, variant: Variant) -> Any:
        half = self.dtype if self.dtype != torch.float32 else torch.bfloat16
        wanted = (self.dtype != torch.float32) != variant.other_precision
        return torch.autocast(self.model.device.type, half) if wanted else nullcontext()

    def _moved(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.to(self.model.device) for name, value in inputs.items()}


class _OldPrefix(DynamicCache):
    """A cache that shows attention the first ``length`` keys and values of ``old``, of one row, in place of new ones.

    Layers without keys, which keep a recurrent state, are left as they are.
    """

    def __init__(self, model: PreTrainedModel, old: DynamicCache, length: int) -> None:
        super().__init__(config=model.config.get_text_config())
        self.old, self.length = old, length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values ``(rows, heads, tokens, width)`` of all tokens so far."""
        new = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        layer = self.old.layers[layer_idx]
        keys, values = (
            torch.cat([old[:, :, : self.length].expand(len(mine), -1, -1, -1), mine[:, :, self.length :]], dim=2)
            for old, mine in zip((layer.keys, layer.values), new, strict=True)
        )
        return keys, values


def _rows(prompts: Sequence[EncodedPrompt], completions: Sequence[Completions]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, shape ``(rows, tokens)``: prompts padded on the left, completions on the right."""
    before = max(len(prompt.input_ids) for prompt in prompts)
    after = max(len(one) for mine in completions for one in mine)
    ids, mask = [], []
    for prompt, mine in zip(prompts, completions, strict=True):
        for one in mine:
            left, right = before - len(prompt.input_ids), after - len(one)
            ids.append([0] * left + prompt.input_ids + list(one) + [0] * right)
            mask.append([0] * left + [1] * (before + after - left - right) + [0] * right)
    return torch.tensor(ids), torch.tensor(mask)


def _with_seconds(prompt: EncodedPrompt, variant: Variant) -> EncodedPrompt:
    if prompt.second_per_grid_ts is None:
        return prompt
    given = prompt.second_per_grid_ts if variant.seconds is None else torch.full((1,), variant.seconds)
    return replace(prompt, second_per_grid_ts=given * variant.seconds_factor)


@contextmanager
def _positions_of(model: PreTrainedModel, variant: Variant) -> Iterator[None]:
    """The class's own rule of positions instead of the one that `use_trained_positions` put over it."""
    inner = vision_language_model(model)
    trained = inner.__dict__.get("get_rope_index")
    if not variant.stock_positions or trained is None:
        yield
        return
    del inner.get_rope_index
    try:
        yield
    finally:
        inner.get_rope_index = trained
