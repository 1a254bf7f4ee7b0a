"""A video LLM's likeliest classes of a clip: a beam search over the texts of all classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from data_prep.rows import Row
from invert_rl.llavaction.answers.appending import is_qwen, next_position
from invert_rl.llavaction.data import SampleEncoder
from invert_rl.llavaction.views import Sample

BEAM = 24
"""Texts that are followed at a time: more than a question of training is drawn from."""


@dataclass
class Node:
    """The tokens that some texts have in common from their beginning."""

    children: dict[int, Node] = field(default_factory=dict)
    classes: list[int] = field(default_factory=list)
    """Places of the texts that end here; several if they are the same."""


class ClassBeam:
    """Ranks texts as answers to a prompt with a clip by their probability, end token included.

    Prompt and clip are computed once. Texts share the computation of their common beginnings, and only the ``beam``
    likeliest are followed: with as many as there are texts the ranking is that of all of them.

    Args:
        model: from `load_action_model`, in evaluation mode.
        encode: as in training.
        texts: one per class.
        beam: unfinished texts that are followed at a time.
    """

    def __init__(self, model: Any, encode: SampleEncoder, texts: Sequence[str], beam: int = BEAM) -> None:
        self.model, self.encode, self.beam = model, encode, beam
        tokenizer, end = encode.encoder.tokenizer, encode.encoder.end_id
        self.root = Node()
        for place, text in enumerate(texts):
            node = self.root
            for token in (*tokenizer(text, add_special_tokens=False)["input_ids"], end):
                node = node.children.setdefault(token, Node())
            node.classes.append(place)

    @torch.no_grad()
    def __call__(self, sample: Sample, row: Row) -> list[tuple[int, float]]:
        """Places of texts with their log-probabilities, the likeliest first: at least ``beam`` if there are as many.

        Raises `VideoError` for a clip that cannot be used.
        """
        encoded = self.encode(sample, row, with_answer=False)
        device = next(self.model.parameters()).device
        inputs = {n: v.to(device) for n, v in self.encode.encoder.batch([encoded], labels=False).items()}
        position = next_position(self.model, inputs)
        prompt = self.model(**inputs, use_cache=True, logits_to_keep=1)
        cache, logits = prompt.past_key_values, prompt.logits[:, -1]
        open_texts: list[tuple[Node, float]] = [(self.root, 0.0)]
        finished: list[tuple[int, float]] = []
        while True:
            chances = logits.float().log_softmax(-1).cpu()
            longer: list[tuple[float, int, int, Node]] = []
            for parent, (node, score) in enumerate(open_texts):
                tokens = list(node.children)
                for token, chance in zip(tokens, chances[parent, tokens].tolist(), strict=True):
                    child = node.children[token]
                    finished += [(place, score + chance) for place in child.classes]
                    if child.children:
                        longer.append((score + chance, parent, token, child))
            longer = sorted(longer, key=lambda found: -found[0])[: self.beam]
            if not longer:
                return sorted(finished, key=lambda found: (-found[1], found[0]))
            open_texts = [(node, score) for score, _, _, node in longer]
            cache.batch_select_indices(torch.tensor([parent for _, parent, _, _ in longer], device=device))
            positions = torch.full((len(longer), 1), position, device=device)
            if is_qwen(self.model):
                positions = positions.expand(3, -1, -1)
            output = self.model(
                input_ids=torch.tensor([[token] for _, _, token, _ in longer], device=device),
                past_key_values=cache,
                position_ids=positions,
                use_cache=True,
            )
            logits, position = output.logits[:, -1], position + 1
