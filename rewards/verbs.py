"""Verb rewards of the inverted tasks: verb completion, action recognition, video description.

Ground truth is the column ``verbs``: the lemmas of each query, computed once offline by the same pipeline; a row
without any has no score. A score is binary by default, but for the guard of descriptions; ``verb_score="cosine"`` is
the variant of the paper's Table 3, in which a verb counts by its similarity to the verb asked for. All scores are in
[0, 1].

Options, fixed with `with_options`: ``verb_match`` ("all" or "any" of the query's verbs, for VC and VD),
``verb_score`` ("binary" or "cosine"), ``verb_guard`` ("default", or "none": the paper's equations to the letter),
``ignore_verbs`` (`rewards.ignored_verbs`) and ``pipeline``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

from rewards.answers import Completion, answer_or_bare_text, completion_text
from rewards.errors import RewardError
from rewards.ignored_verbs import IgnoreVerbs, describe_ignored, ignored_verbs, without_ignored
from rewards.pipelines import VerbPipeline, load_pipeline
from rewards.plain_text import plain_text
from rewards.registry import Reward, register_reward
from rewards.routing import only_for_task
from rewards.training.captions import lone_verbs
from rewards.training.lexicon import lemma_table
from rewards.verb_scores import (
    EXTRA_VERBS,
    FREE_VERBS,
    MAX_AR_WORDS,
    MAX_VERB_LIKE,
    Similarity,
    VerbGuard,
    VerbMatch,
    ar_score,
    same_verb,
    vc_score,
    vd_score,
)

__all__ = [
    "EXTRA_VERBS",
    "FREE_VERBS",
    "MAX_ANSWER_CHARS",
    "MAX_AR_WORDS",
    "MAX_VERB_LIKE",
    "ar",
    "ar_reward",
    "ar_score",
    "check_options",
    "count_words",
    "vc",
    "vc_reward",
    "vc_score",
    "vd",
    "vd_reward",
    "vd_score",
    "verb_like_words",
    "verb_settings",
    "with_options",
]

VerbScore: TypeAlias = Literal["binary", "cosine"]
Verbs: TypeAlias = Sequence[Sequence[str] | None]

MAX_ANSWER_CHARS = 5000
"""A longer answer holds no verbs; 1,024 tokens of English are about this long."""

SHORT_ANSWER = 3
"""The first of so many words of an answer to "use a verb" is a verb if it can be one."""

_WORD = re.compile(r"[^\W\d_]+")
_LEAD_IN = re.compile(
    r".{0,60}\b(?:verb|action|activity|answer|event|word)\b[^.:!?]{0,60}(?:\b(?:is|was|be|described as)\b ?:?|:) ?",
    re.IGNORECASE,
)
"""What may stand before the verb in an answer: "The verb is: ", "Action: "."""


@register_reward("vc")
def vc(
    completions: Sequence[Completion],
    verbs: Verbs,
    *,
    verb_match: VerbMatch = "all",
    verb_score: VerbScore = "binary",
    verb_guard: VerbGuard = "default",
    ignore_verbs: IgnoreVerbs = "none",
    pipeline: VerbPipeline | None = None,
    **columns: Any,
) -> list[float | None]:
    """`vc_score` of each answer (paper, eq. 5); None for a row without verbs."""
    check_options(verb_match, verb_score, verb_guard)

    def score(found: set[str], asked: set[str], answer: str, similarity: Similarity) -> float:
        return vc_score(found, asked, verb_match, similarity, verb_like_words(answer), verb_guard)

    return _score(completions, verbs, pipeline, verb_score, ignore_verbs, score)


@register_reward("ar")
def ar(
    completions: Sequence[Completion],
    verbs: Verbs,
    *,
    verb_score: VerbScore = "binary",
    verb_guard: VerbGuard = "default",
    ignore_verbs: IgnoreVerbs = "none",
    pipeline: VerbPipeline | None = None,
    **columns: Any,
) -> list[float | None]:
    """`ar_score` of each answer (paper, eq. 6); None for a row without verbs.

    What leads to the verb is not read ("The verb is: close"), and the first of a few words is a verb if it can be
    one ("drinking water").
    """
    check_options("all", verb_score, verb_guard)

    def score(found: set[str], asked: set[str], answer: str, similarity: Similarity) -> float:
        return ar_score(found, asked, count_words(answer), similarity, verb_guard)

    return _score(completions, verbs, pipeline, verb_score, ignore_verbs, score, _single_verb)


@register_reward("vd")
def vd(
    completions: Sequence[Completion],
    verbs: Verbs,
    *,
    verb_match: VerbMatch = "all",
    verb_score: VerbScore = "binary",
    verb_guard: VerbGuard = "default",
    ignore_verbs: IgnoreVerbs = "none",
    pipeline: VerbPipeline | None = None,
    **columns: Any,
) -> list[float | None]:
    """`vd_score` of each answer (paper, eq. 7); None for a row without verbs."""
    check_options(verb_match, verb_score, verb_guard)

    def score(found: set[str], asked: set[str], answer: str, similarity: Similarity) -> float:
        return vd_score(found, asked, count_words(answer), verb_match, similarity, verb_guard)

    return _score(completions, verbs, pipeline, verb_score, ignore_verbs, score)


vc_reward = only_for_task(vc, "vc", ["verbs"])
ar_reward = only_for_task(ar, "ar", ["verbs"])
vd_reward = only_for_task(vd, "vd", ["verbs"])


def with_options(reward: Reward, **options: Any) -> Reward:
    """``reward`` with keyword options fixed; keeps ``__name__``, under which a trainer logs it."""
    return functools.update_wrapper(functools.partial(reward, **options), reward)


def verb_settings(verb_guard: VerbGuard = "default", ignore_verbs: IgnoreVerbs = "none") -> dict[str, str]:
    """What decides a verb score besides the answer, for the protocol of a result; raises `RewardError` as they do.

    Results compare only where these are equal.
    """
    check_options("all", "binary", verb_guard)
    return {"verb_guard": verb_guard, "ignore_verbs": describe_ignored(ignore_verbs)}


def check_options(
    verb_match: str, verb_score: str, verb_guard: str = "default", ignore_verbs: IgnoreVerbs = "none"
) -> None:
    """Raise `RewardError` when an option of the verb rewards is unknown."""
    ignored_verbs(ignore_verbs)
    for name, value, known in (
        ("verb_match", verb_match, get_args(VerbMatch)),
        ("verb_score", verb_score, get_args(VerbScore)),
        ("verb_guard", verb_guard, get_args(VerbGuard)),
    ):
        if value not in known:
            raise RewardError(f"{name} {value!r} is unknown; use {' or '.join(map(repr, known))}")


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


def _score(
    completions: Sequence[Completion],
    verbs: Verbs,
    pipeline: VerbPipeline | None,
    verb_score: VerbScore,
    ignore_verbs: IgnoreVerbs,
    score: Callable[[set[str], set[str], str, Similarity], float],
    read: Callable[[VerbPipeline, list[str]], list[list[str]]] = VerbPipeline.verbs,
) -> list[float | None]:
    """``score(verbs of the answer, verbs asked for, answer, similarity)`` of each row that has verbs."""
    ignored = ignored_verbs(ignore_verbs)
    scores: list[float | None] = [None] * len(completions)
    known = [(index, asked) for index, (_, asked) in enumerate(zip(completions, verbs, strict=True)) if asked]
    if not known:
        return scores
    answers = [answer_or_bare_text(completion_text(completions[index])) for index, _ in known]
    answers = [answer if len(answer) <= MAX_ANSWER_CHARS else "" for answer in answers]
    pipeline = pipeline or load_pipeline()
    similarity = same_verb if verb_score == "binary" else pipeline.similarity
    for (index, asked), answer, lemmas in zip(known, answers, read(pipeline, answers), strict=True):
        found, wanted = without_ignored(lemmas, asked, ignored)
        scores[index] = score(found, wanted, answer, similarity)
    return scores


def _single_verb(pipeline: VerbPipeline, answers: list[str]) -> list[list[str]]:
    """The verbs of answers to "use a verb" (see `ar`)."""
    bare = [_without_lead_in(plain_text(answer)) for answer in answers]
    return [verbs or _first_verb(answer) for verbs, answer in zip(pipeline.verbs(bare), bare, strict=True)]


def _without_lead_in(answer: str) -> str:
    lead_in = _LEAD_IN.match(answer)
    return answer[lead_in.end() :] or answer if lead_in else answer


def _first_verb(answer: str) -> list[str]:
    """The lemma of the first word of a short answer, if it can be a verb."""
    words = _WORD.findall(answer.lower())
    if 0 < len(words) <= SHORT_ANSWER and words[0] in lone_verbs():
        return [lone_verbs()[words[0]]]
    return []
