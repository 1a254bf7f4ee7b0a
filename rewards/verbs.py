"""Verb rewards of the inverted tasks: verb completion, action recognition, video description.

Ground truth is the column ``verbs``: the lemmas of each query, computed once offline by the same pipeline. A
score is binary by default; ``verb_score="cosine"`` is the variant of the paper's Table 3, in which a verb counts
by its similarity to the verb asked for. Its scores are in [0, 1] and keep every guard against lists of verbs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, TypeAlias

from rewards.answers import Completion, answer_or_bare_text, completion_text
from rewards.errors import RewardError
from rewards.pipelines import VerbPipeline, load_pipeline
from rewards.registry import Reward, register_reward
from rewards.routing import only_for_task
from rewards.training.lexicon import lemma_table

VerbMatch: TypeAlias = Literal["all", "any"]
VerbScore: TypeAlias = Literal["binary", "cosine"]
Similarity: TypeAlias = Callable[[str, str], float]
"""How alike two lemmas are, in [0, 1]."""

MAX_ANSWER_CHARS = 5000
"""A longer answer holds no verbs; 1,024 tokens of English are about this long."""

EXTRA_VERBS = 5
"""How many distinct verbs a description may hold beyond as many as were asked for."""

MAX_AR_WORDS = 12
"""A longer answer to "use a verb" scores 0."""

MAX_VERB_LIKE = 15
"""How many distinct words that can be verbs a completed query may hold beyond as many as were masked."""

_WORD = re.compile(r"[^\W\d_]+")


def same_verb(a: str, b: str) -> float:
    """The binary similarity of two lemmas: 1 when they are equal, else 0."""
    return float(a == b)


def vc_score(
    predicted: Collection[str],
    truth: Collection[str],
    verb_match: VerbMatch = "all",
    similarity: Similarity = same_verb,
    verb_like: int = 0,
) -> float:
    """Verb completion, in [0, 1] (paper, eq. 5), from the lemmas of the answer and of the query.

    "all": how well the worst recovered of the masked verbs is met, so 1 when all are there. "any": how well the
    best recovered one is. Listing does not pay: more distinct verbs than were masked score 0, and so do more
    than `MAX_VERB_LIKE` words beyond that number which can be verbs (``verb_like``), even where they are read as
    nouns.
    """
    verbs, asked = set(predicted), set(truth)
    if not verbs or len(verbs) > len(asked) or verb_like > len(asked) + MAX_VERB_LIKE:
        return 0.0
    return _agreement(verbs, asked, verb_match, similarity)


def ar_score(
    predicted: Collection[str], truth: Collection[str], words: int = 1, similarity: Similarity = same_verb
) -> float:
    """Action recognition, in [0, 1] (paper, eq. 6): the one verb of the answer against the best of the query.

    An answer with several distinct verbs, without any, or of more than `MAX_AR_WORDS` ``words`` scores 0.
    """
    verbs, asked = set(predicted), set(truth)
    if len(verbs) != 1 or not asked or words > MAX_AR_WORDS:
        return 0.0
    return _agreement(verbs, asked, "any", similarity)


def vd_score(
    predicted: Collection[str],
    truth: Collection[str],
    words: int,
    verb_match: VerbMatch = "all",
    similarity: Similarity = same_verb,
) -> float:
    """Video description, in [0, 1] (paper, eq. 7): whether all (or any) verbs of the query are described.

    Guard against lists of verbs: 0 when there are more than `EXTRA_VERBS` distinct verbs beyond as many as
    the query has, or when they are more than half of the ``words`` and more than the query has.
    """
    verbs, asked = set(predicted), set(truth)
    if not verbs or not asked or len(verbs) > len(asked) + EXTRA_VERBS:
        return 0.0
    if len(verbs) > len(asked) and 2 * len(verbs) > words:
        return 0.0
    return _agreement(verbs, asked, verb_match, similarity)


@register_reward("vc")
def vc(
    completions: Sequence[Completion],
    verbs: Sequence[Sequence[str] | None],
    *,
    verb_match: VerbMatch = "all",
    verb_score: VerbScore = "binary",
    pipeline: VerbPipeline | None = None,
    **columns: Any,
) -> list[float | None]:
    """`vc_score` of each answer (paper, eq. 5); None for a row without verbs."""
    check_options(verb_match, verb_score)
    return _score(
        completions,
        verbs,
        pipeline,
        verb_score,
        lambda found, asked, answer, similarity: vc_score(
            found, asked, verb_match, similarity, verb_like_words(answer)
        ),
    )


@register_reward("ar")
def ar(
    completions: Sequence[Completion],
    verbs: Sequence[Sequence[str] | None],
    *,
    verb_score: VerbScore = "binary",
    pipeline: VerbPipeline | None = None,
    **columns: Any,
) -> list[float | None]:
    """`ar_score` of each answer (paper, eq. 6); None for a row without verbs."""
    check_options("all", verb_score)
    return _score(
        completions,
        verbs,
        pipeline,
        verb_score,
        lambda found, asked, answer, similarity: ar_score(found, asked, count_words(answer), similarity),
    )


@register_reward("vd")
def vd(
    completions: Sequence[Completion],
    verbs: Sequence[Sequence[str] | None],
    *,
    verb_match: VerbMatch = "all",
    verb_score: VerbScore = "binary",
    pipeline: VerbPipeline | None = None,
    **columns: Any,
) -> list[float | None]:
    """`vd_score` of each answer (paper, eq. 7); None for a row without verbs."""
    check_options(verb_match, verb_score)
    return _score(
        completions,
        verbs,
        pipeline,
        verb_score,
        lambda found, asked, answer, similarity: vd_score(found, asked, count_words(answer), verb_match, similarity),
    )


vc_reward = only_for_task(vc, "vc", ["verbs"])
ar_reward = only_for_task(ar, "ar", ["verbs"])
vd_reward = only_for_task(vd, "vd", ["verbs"])


def with_options(reward: Reward, **options: Any) -> Reward:
    """``reward`` with keyword options fixed; keeps ``__name__``, under which a trainer logs it."""
    return functools.update_wrapper(functools.partial(reward, **options), reward)


def _score(
    completions: Sequence[Completion],
    verbs: Sequence[Sequence[str] | None],
    pipeline: VerbPipeline | None,
    verb_score: VerbScore,
    score: Callable[[list[str], Sequence[str], str, Similarity], float],
) -> list[float | None]:
    """``score(verbs of the answer, verbs asked for, answer, similarity)`` of each row that has verbs."""
    scores: list[float | None] = [None] * len(completions)
    known = [(index, asked) for index, (_, asked) in enumerate(zip(completions, verbs, strict=True)) if asked]
    if not known:
        return scores
    answers = [answer_or_bare_text(completion_text(completions[index])) for index, _ in known]
    answers = [answer if len(answer) <= MAX_ANSWER_CHARS else "" for answer in answers]
    pipeline = pipeline or load_pipeline()
    similarity = same_verb if verb_score == "binary" else pipeline.similarity
    found = pipeline.verbs(answers)
    for (index, asked), answer, lemmas in zip(known, answers, found, strict=True):
        scores[index] = score(lemmas, asked, answer, similarity)
    return scores


def count_words(text: str) -> int:
    """How many runs of letters ``text`` has."""
    return len(_WORD.findall(text))


def verb_like_words(text: str) -> int:
    """How many distinct verbs the words of ``text`` can be forms of, whatever they are in the sentence."""
    forms = _verb_forms()
    return len({forms[word] for word in _WORD.findall(text.lower()) if word in forms})


@functools.cache
def _verb_forms() -> dict[str, str]:
    return lemma_table()


def check_options(verb_match: str, verb_score: str) -> None:
    """Raise `RewardError` when an option of the verb rewards is unknown."""
    if verb_match not in ("all", "any"):
        raise RewardError(f"verb_match {verb_match!r} is unknown; use 'all' or 'any'")
    if verb_score not in ("binary", "cosine"):
        raise RewardError(f"verb_score {verb_score!r} is unknown; use 'binary' or 'cosine'")


def _agreement(verbs: Collection[str], asked: Collection[str], verb_match: VerbMatch, similarity: Similarity) -> float:
    """How well the worst ("all") or the best ("any") of ``asked`` is met by the verb most similar to it."""
    met = [max(similarity(verb, other) for other in verbs) for verb in asked]
    return max(met) if verb_match == "any" else min(met)
