"""The action token in a sequence: where it goes, and where it is (paper, section 3.3, eq. 5)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, ProcessorMixin

ACTION_TOKEN = "<|action|>"
"""Its name in the tokenizer; a token like any other for generation, caches and servers."""
ACTION_TOKENS = (ACTION_TOKEN, "<|action_noun|>", "<|action_class|>")
"""Table 10's three tokens, whose states the verb, the noun and the action head see; else the first alone."""
CLOSING = ("<|vision_end|>",)
"""What a template writes right after visual tokens as a part of them; the released Qwen models never saw it missing."""


def add_action_tokens(tokenizer: PreTrainedTokenizerBase, count: int = 1) -> None:
    """Give the tokenizer the first ``count`` of `ACTION_TOKENS` unless it has them; no other id changes."""
    names = list(ACTION_TOKENS[:count])
    tokenizer.add_special_tokens({"additional_special_tokens": names}, replace_extra_special_tokens=False)


def visual_ids(processor: ProcessorMixin, config: Any) -> tuple[set[int], set[int]]:
    """Ids of image and video placeholders, and of what closes them."""
    placeholders = {
        value for name in ("image_token_id", "video_token_id") if (value := getattr(config, name, None)) is not None
    }
    vocabulary = processor.tokenizer.get_vocab()
    return placeholders, {vocabulary[token] for token in CLOSING if token in vocabulary}


def action_place(ids: Sequence[int], placeholders: Collection[int], closing: Collection[int]) -> int:
    """Where the action token belongs in a prompt: right after the last visual token and what closes it.

    Raises `ValueError` where there is no visual token.
    """
    last = next((place for place in range(len(ids) - 1, -1, -1) if ids[place] in placeholders), None)
    if last is None:
        raise ValueError("the prompt holds no visual token, so the action token has no place")
    place = last + 1
    while place < len(ids) and ids[place] in closing:
        place += 1
    return place


def find_action_token(input_ids: Tensor, token_id: int) -> Tensor:
    """The position of an action token in each row of ``input_ids`` (batch, length), padding on either side.

    Shape (batch,). Raises `ValueError` for a row that does not hold it exactly once, as after a truncation.
    """
    found = input_ids == token_id
    counts = found.sum(dim=1)
    if not bool((counts == 1).all()):
        row = int((counts != 1).nonzero()[0])
        raise ValueError(
            f"row {row} of the batch holds the action token {int(counts[row])} times, not once; was the prompt cut "
            "off? Take fewer or smaller frames instead (--max_frames, --total_pixels)"
        )
    return found.int().argmax(dim=1)


def embedding_row(model: torch.nn.Module, token_id: int) -> Tensor:
    """The learnable vector of the action token, a view of one row of the input embeddings, shape (d,)."""
    return model.get_input_embeddings().weight[token_id]
