"""Multi-round appending: every class's text after one cached prompt; the class with the lowest loss wins (E.3)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Cache

from invert_rl.llavaction.data import SampleEncoder
from invert_rl.llavaction.encode import Encoded
from invert_rl.llavaction.model import IGNORED
from invert_rl.llavaction.views import Sample


class AppendingScorer:
    """Scores texts as continuations of a prompt with a clip.

    Prompt and clip are computed once; their cache is repeated for ``chunk`` texts at a time, padded on the right.

    Args:
        model: from `load_action_model`, in evaluation mode.
        encode: as in training.
        texts: one per class.
        chunk: texts at a time.
    """

    def __init__(self, model: Any, encode: SampleEncoder, texts: Sequence[str], chunk: int = 64) -> None:
        self.model, self.encode, self.chunk = model, encode, chunk
        tokenizer, end = encode.encoder.tokenizer, encode.encoder.end_id
        self.pad = tokenizer.pad_token_id
        self.ids = [[*tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in texts]

    def losses(self, sample: Sample, row: Any) -> Tensor:
        """Mean cross-entropy of each text and its end token after the sample's prompt, shape (texts,)."""
        return self.after(self.encode(sample, row, with_answer=False))

    @torch.no_grad()
    def after(self, encoded: Encoded) -> Tensor:
        """The same after an encoded prompt without an answer."""
        device = next(self.model.parameters()).device
        inputs = {n: v.to(device) for n, v in self.encode.encoder.batch([encoded], labels=False).items()}
        following = next_position(self.model, inputs)
        prompt = self.model(**inputs, use_cache=True, logits_to_keep=1)
        found = [
            self._chunk(self.ids[first : first + self.chunk], prompt.past_key_values, prompt.logits[0, -1], following)
            for first in range(0, len(self.ids), self.chunk)
        ]
        return torch.cat(found)

    def _chunk(self, texts: list[list[int]], cache: Cache, first_logits: Tensor, following: int) -> Tensor:
        longest = max(len(text) for text in texts)
        device = first_logits.device
        ids = torch.tensor([text + [self.pad] * (longest - len(text)) for text in texts], device=device)
        labels = torch.tensor([text + [IGNORED] * (longest - len(text)) for text in texts], device=device)
        logits = first_logits.expand(len(texts), 1, -1)
        if longest > 1:
            repeated = copy.deepcopy(cache)
            repeated.batch_repeat_interleave(len(texts))
            place = torch.arange(longest - 1, device=device) + following
            positions = place.expand(len(texts), -1)
            if is_qwen(self.model):
                positions = positions.expand(3, -1, -1)
            # what pads a text on the right comes after all of it: no label sees it
            output = self.model(input_ids=ids[:, :-1], past_key_values=repeated, position_ids=positions, use_cache=True)
            logits = torch.cat([logits, output.logits], dim=1)
        loss = functional.cross_entropy(logits.transpose(1, 2).float(), labels, ignore_index=IGNORED, reduction="none")
        return loss.sum(1) / (labels != IGNORED).sum(1)


def is_qwen(model: Any) -> bool:
    """Whether positions have three axes."""
    return model.config.model_type.startswith("qwen")


def next_position(model: Any, inputs: dict[str, Tensor]) -> int:
    """The position of the first token after a prompt without padding.

    Explicit, because what transformers continues from a cache with need not be where its own text goes on.
    """
    length = inputs["input_ids"].shape[1]
    if not is_qwen(model):
        return length
    names = ("input_ids", "mm_token_type_ids", "video_grid_thw", "second_per_grid_ts", "attention_mask")
    positions, _ = model.model.get_rope_index(**{name: inputs[name] for name in names if name in inputs})
    return int(positions.max()) + 1
