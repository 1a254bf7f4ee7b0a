"""Small word vectors of verbs for the cosine reward: which words stand near them, compressed (PPMI and SVD)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from rewards.training.captions import Labelled
from rewards.training.lexicon import lemma_table

CONTEXT_POS = ("NOUN", "PROPN", "ADJ", "ADV", "ADP", "VERB")
WINDOW = 4
"""Words to each side that count as near."""
MIN_COUNT = 5
"""Verbs and neighbours seen less often are left out."""


def verb_vectors(sentences: Iterable[Labelled], dimensions: int) -> dict[str, numpy.ndarray]:
    """Unit vectors of verb lemmas, float32 ``(dimensions,)``, from labelled sentences.

    Positive pointwise mutual information of verbs with the words near them, reduced by a truncated singular
    value decomposition with the square roots of the singular values. Texts with few verbs give fewer dimensions.
    """
    pairs = _neighbours(sentences)
    verb_counts: Counter[str] = Counter()
    near_counts: Counter[str] = Counter()
    for (verb, near), count in pairs.items():
        verb_counts[verb] += count
        near_counts[near] += count
    verbs = _numbered(verb_counts)
    nears = _numbered(near_counts)
    total = sum(pairs.values())
    table = numpy.zeros((len(verbs), len(nears)))
    for (verb, near), count in pairs.items():
        if verb in verbs and near in nears:
            information = numpy.log(count * total / (verb_counts[verb] * near_counts[near]))
            table[verbs[verb], nears[near]] = max(0.0, information)
    dimensions = min(dimensions, min(table.shape) - 1)
    if dimensions < 1:
        return {}
    left, singular, _ = svds(csr_matrix(table), k=dimensions, v0=numpy.ones(min(table.shape)))
    vectors = left * numpy.sqrt(singular)
    vectors /= numpy.maximum(numpy.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return {verb: vectors[row].astype("float32") for verb, row in verbs.items()}


def _neighbours(sentences: Iterable[Labelled]) -> Counter[tuple[str, str]]:
    """How often each verb lemma and each word, verbs as lemmas, stand within `WINDOW` content words."""
    lemmas = lemma_table()
    pairs: Counter[tuple[str, str]] = Counter()
    for words in sentences:
        content = []
        for word, label in words:
            pos = label.split(".")[0]
            if pos in CONTEXT_POS:
                lower = word.lower()
                is_verb = pos == "VERB" and lower in lemmas
                content.append((lemmas[lower] if is_verb else lower, is_verb))
        for at, (verb, is_verb) in enumerate(content):
            if is_verb:
                near = content[max(0, at - WINDOW) : at] + content[at + 1 : at + 1 + WINDOW]
                pairs.update((verb, word) for word, _ in near)
    return pairs


def _numbered(counts: Counter[str]) -> dict[str, int]:
    """The keys seen at least `MIN_COUNT` times, numbered in alphabetical order."""
    return {key: number for number, key in enumerate(sorted(key for key, n in counts.items() if n >= MIN_COUNT))}
