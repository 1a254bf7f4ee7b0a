"""Verb rewards of the inverted tasks: verb completion, action recognition, video description.

Ground truth is the column ``verbs``: the lemmas of each query, computed once offline by the same pipeline.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, TypeAlias

from rewards.answers import Completion, answer_or_bare_text, completion_text
from rewards.errors import RewardError
from rewards.pipelines import VerbPipeline, load_pipeline

VerbMatch: TypeAlias = Literal["all", "any"]
Reward: TypeAlias = Callable[..., list[float | None]]

MAX_ANSWER_CHARS = 5000
"""A longer answer holds no verbs; 1,024 tokens of English are about this long."""

EXTRA_VERBS = 5
"""How many distinct verbs a description may hold beyond as many as were asked for."""


def vc_score(predicted: Collection[str], truth: Collection[str], verb_match: VerbMatch = "all") -> float:
    """Verb completion, 0 or 1 (paper, eq. 5), from sets of lemmas.

    "all": every masked verb is recovered and no other verb is there. "any": at least one masked verb is
    recovered. With either, more distinct verbs than were masked score 0, so that listing does not pay.
    """
    found = set(predicted) & set(truth)
    if not found or len(set(predicted)) > len(set(truth)):
        return 0.0
    return float(verb_match == "any" or found == set(truth) == set(predicted))


def ar_score(predicted: Collection[str], truth: Collection[str]) -> float:
    """Action recognition, 0 or 1 (paper, eq. 6): exactly one verb, and it is among the query's."""
    return float(len(set(predicted)) == 1 and set(predicted) <= set(truth))


def vd_score(predicted: Collection[str], truth: Collection[str], words: int, verb_match: VerbMatch = "all") -> float:
    """Video description, 0 or 1 (paper, eq. 7): all (or any) of the query's verbs are in the description.

    Guard against lists of verbs: 0 when there are more than `EXTRA_VERBS` distinct verbs beyond as many as
    the query has, or when they are more than half of the ``words`` and more than the query has.
    """
    verbs, asked = set(predicted), set(truth)
    if not asked or len(verbs) > len(asked) + EXTRA_VERBS:
        return 0.0
    if len(verbs) > len(asked) and 2 * len(verbs) > words:
        return 0.0
    return float(bool(verbs & asked) if verb_match == "any" else asked <= verbs)


def vc_reward(
    completions: Sequence[Completion],
    task: Sequence[str],
    verbs: Sequence[Sequence[str]],
    *,
    verb_match: VerbMatch = "all",
    pipeline: VerbPipeline | None = None,
    **columns: Any,
) -> list[float | None]:
    """`vc_score` of each answer (paper, eq. 5); None for tasks other than "vc"."""
    _check_match(verb_match)
    return _score(
        "vc",
        completions,
        task,
        verbs,
        pipeline,
        lambda found, asked, words: vc_score(found, asked, verb_match),
    )


def ar_reward(
    completions: Sequence[Completion],
    task: Sequence[str],
    verbs: Sequence[Sequence[str]],
    *,
    pipeline: VerbPipeline | None = None,
    **columns: Any,
) -> list[float | None]:
    """`ar_score` of each answer (paper, eq. 6); None for tasks other than "ar"."""
    return _score("ar", completions, task, verbs, pipeline, lambda found, asked, words: ar_score(found, asked))


def vd_reward(
    completions: Sequence[Completion],
    task: Sequence[str],
    verbs: Sequence[Sequence[str]],
    *,
    verb_match: VerbMatch = "all",
    pipeline: VerbPipeline | None = None,
    **columns: Any,
) -> list[float | None]:
    """`vd_score` of each answer (paper, eq. 7); None for tasks other than "vd"."""
    _check_match(verb_match)
    return _score(
        "vd",
        completions,
        task,
        verbs,
        pipeline,
        lambda found, asked, words: vd_score(found, asked, words, verb_match),
    )


def with_options(reward: Reward, **options: Any) -> Reward:
    """``reward`` with keyword options fixed; keeps ``__name__``, under which a trainer logs it."""
    return functools.update_wrapper(functools.partial(reward, **options), reward)


def _score(
    name: str,
    completions: Sequence[Completion],
    task: Sequence[str],
    verbs: Sequence[Sequence[str]],
    pipeline: VerbPipeline | None,
    score: Callable[[list[str], Sequence[str], int], float],
) -> list[float | None]:
    """``score(verbs of the answer, verbs asked for, words of the answer)`` of the rows of task ``name``."""
    scores: list[float | None] = [None] * len(completions)
    mine = [index for index, row_task in enumerate(task) if row_task == name]
    if not mine:
        return scores
    answers = [answer_or_bare_text(completion_text(completions[index])) for index in mine]
    answers = [answer if len(answer) <= MAX_ANSWER_CHARS else "" for answer in answers]
    found = (pipeline or load_pipeline()).verbs(answers)
    for index, answer, lemmas in zip(mine, answers, found, strict=True):
        scores[index] = score(lemmas, verbs[index], len(answer.split()))
    return scores


def _check_match(verb_match: str) -> None:
    if verb_match not in ("all", "any"):
        raise RewardError(f"verb_match {verb_match!r} is unknown; use 'all' or 'any'")
