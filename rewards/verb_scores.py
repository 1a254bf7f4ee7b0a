"""What sets of verb lemmas earn against those of a query: the paper's equations 5 to 7, and guards for lists.

Nothing here reads text; `rewards.verbs` does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal, TypeAlias

VerbMatch: TypeAlias = Literal["all", "any"]
VerbGuard: TypeAlias = Literal["default", "none"]
Similarity: TypeAlias = Callable[[str, str], float]
"""How alike two lemmas are, in [0, 1]."""

FREE_VERBS = 1
"""As many verbs beyond those asked for cost a description nothing: "A person jumps and laughs" (paper, section 2.2)."""

EXTRA_VERBS = 5
"""As many verbs beyond the free ones halve what a description earns."""

MAX_AR_WORDS = 12
"""A longer answer to "use a verb" scores 0."""

MAX_VERB_LIKE = 15
"""How many distinct words that can be verbs a completed query may hold beyond as many as were masked."""


def same_verb(a: str, b: str) -> float:
    """The binary similarity of two lemmas: 1 when they are equal, else 0."""
    return float(a == b)


def vc_score(
    predicted: Collection[str],
    truth: Collection[str],
    verb_match: VerbMatch = "all",
    similarity: Similarity = same_verb,
    verb_like: int = 0,
    guard: VerbGuard = "default",
) -> float:
    """Verb completion, in [0, 1] (paper, eq. 5), from the lemmas of the answer and of the query.

    "all": how well the worst recovered of the masked verbs is met, so 1 when all are there. "any": how well the
    best recovered one is. Listing does not pay: more distinct verbs than were masked score 0. The guard against
    verbs that are read as nouns also gives 0 for more than `MAX_VERB_LIKE` words beyond that number which can be
    verbs (``verb_like``).
    """
    verbs, asked = set(predicted), set(truth)
    if not verbs or len(verbs) > len(asked):
        return 0.0
    if guard == "default" and verb_like > len(asked) + MAX_VERB_LIKE:
        return 0.0
    return _agreement(_met(verbs, asked, similarity), verb_match)


def ar_score(
    predicted: Collection[str],
    truth: Collection[str],
    words: int = 1,
    similarity: Similarity = same_verb,
    guard: VerbGuard = "default",
) -> float:
    """Action recognition, in [0, 1] (paper, eq. 6): the one verb of the answer against the best of the query.

    An answer with several distinct verbs or without any scores 0; with the guard also one of more than
    `MAX_AR_WORDS` ``words``.
    """
    verbs, asked = set(predicted), set(truth)
    if len(verbs) != 1 or not asked or (guard == "default" and words > MAX_AR_WORDS):
        return 0.0
    return _agreement(_met(verbs, asked, similarity), "any")


def vd_score(
    predicted: Collection[str],
    truth: Collection[str],
    words: int,
    verb_match: VerbMatch = "all",
    similarity: Similarity = same_verb,
    guard: VerbGuard = "default",
) -> float:
    """Video description, in [0, 1] (paper, eq. 7): whether all (or any) verbs of the query are described.

    The equation alone (``guard="none"``) pays most for the description with most verbs. The guard multiplies it by
    ``5 / (5 + extra)``, where ``extra`` is the number of distinct verbs beyond those that met one asked for and a
    free one (`EXTRA_VERBS`, `FREE_VERBS`); and it gives 0 to a mere list: more verbs than were asked for, more than
    half of the ``words``.
    """
    verbs, asked = set(predicted), set(truth)
    if not verbs or not asked:
        return 0.0
    met = _met(verbs, asked, similarity)
    score = _agreement(met, verb_match)
    if guard == "none":
        return score
    if len(verbs) > len(asked) and 2 * len(verbs) > words:
        return 0.0
    extra = max(0.0, len(verbs) - sum(met) - FREE_VERBS)
    return score * EXTRA_VERBS / (EXTRA_VERBS + extra)


def _met(verbs: Collection[str], asked: Collection[str], similarity: Similarity) -> list[float]:
    """How well each verb asked for is met by the verb most similar to it."""
    return [max(similarity(verb, other) for other in verbs) for verb in asked]


def _agreement(met: Collection[float], verb_match: VerbMatch) -> float:
    """The worst ("all") or the best ("any") of ``met``."""
    return max(met) if verb_match == "any" else min(met)
