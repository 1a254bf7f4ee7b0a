"""Descriptions as words: a closed vocabulary, ids, and which words are hidden from the reconstruction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from invert_rl.wtal.descriptions import words_of

PADDING = 0
"""Id after the last word of a description."""


@dataclass(frozen=True)
class Vocabulary:
    """The words of all descriptions; the id of a word is its place plus one, 0 is `PADDING`."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Vocabulary:
        """The vocabulary of ``texts``, in alphabetical order."""
        return cls(tuple(sorted({word for text in texts for word in words_of(text)})))

    def __len__(self) -> int:
        return len(self.words) + 1

    def ids(self, text: str) -> list[int]:
        """Ids of the words of ``text``; raises `KeyError` for a word that is not in the vocabulary."""
        places = {word: index for index, word in enumerate(self.words, start=1)}
        return [places[word] for word in words_of(text)]


def pad_words(sentences: Sequence[Sequence[int]], longest: int) -> Tensor:
    """Ids ``(B, L)`` of sentences, each cut to ``longest`` words, padded to the longest one that is left."""
    length = max(1, max((min(len(sentence), longest) for sentence in sentences), default=1))
    ids = torch.full((len(sentences), length), PADDING, dtype=torch.long)
    for row, sentence in zip(ids, sentences, strict=True):
        cut = list(sentence[:longest])
        row[: len(cut)] = torch.tensor(cut, dtype=torch.long)
    return ids


def choose_masked(ids: Tensor, generator: np.random.Generator) -> Tensor:
    """Which words ``(B, L)`` of ids ``(B, L)`` are hidden: at least a third, rounded down, and one of each sentence.

    A word is hidden wherever the sentence has it: else it could be copied from its other place [C]. Words are drawn
    evenly [C]; the ancestor prefers nouns, verbs and adverbs two to one [R].
    """
    masked = torch.zeros_like(ids, dtype=torch.bool)
    for row, hidden in zip(ids, masked, strict=True):
        there = int((row != PADDING).sum())
        wanted = max(1, there // 3)
        for word in generator.permutation(np.unique(row[:there].numpy())):
            if int(hidden.sum()) >= wanted:
                break
            hidden |= row == int(word)
    return masked
