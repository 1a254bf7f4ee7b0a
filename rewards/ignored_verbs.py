"""Verbs that need not be matched: "plays on a phone" describes "begins to play on a phone"."""

from __future__ import annotations

import functools
from collections.abc import Collection, Set
from typing import TypeAlias

from rewards.errors import RewardError
from rewards.training.lexicon import lemma_table

IgnoreVerbs: TypeAlias = str | Collection[str]
"""``"none"``, ``"aspectual"``, or verbs by their base form, as a list or joined by commas."""

ASPECTUAL_VERBS = frozenset(
    {"begin", "continue", "finish", "keep", "proceed", "resume", "start", "stop", "end", "attempt", "try"}
    | {"appear", "demonstrate", "display", "see", "seem", "show", "view"}
)
"""Verbs of the phase of an event (start, continue, try), and of its being seen or shown ("a man is seen riding").

One stands in 7.7 % of the queries of Charades-STA train and in 39 % of those of ActivityNet Captions train.
"""


def ignored_verbs(ignore_verbs: IgnoreVerbs) -> frozenset[str]:
    """The lemmas that ``ignore_verbs`` names; ``aspectual`` may stand among verbs.

    Raises `RewardError` for a word that is not the base form of a verb: it would never be found in an answer.
    """
    if isinstance(ignore_verbs, str):
        return _named(tuple(name.strip() for name in ignore_verbs.split(",")))
    return _named(tuple(ignore_verbs))


def describe_ignored(ignore_verbs: IgnoreVerbs) -> str:
    """``ignore_verbs`` in one way of writing: "none", "aspectual", or verbs in order joined by commas."""
    verbs = ignored_verbs(ignore_verbs)
    if not verbs:
        return "none"
    return "aspectual" if verbs == ASPECTUAL_VERBS else ",".join(sorted(verbs))


def without_ignored(predicted: Collection[str], asked: Collection[str], ignored: Set[str]) -> tuple[set[str], set[str]]:
    """Both sets of lemmas without the ignored verbs, which then neither help nor count against the answer.

    Where every verb asked for is ignored ("the woman is shown"), nothing is: the query has no other verb to match.
    """
    verbs, wanted = set(predicted), set(asked)
    if wanted <= ignored:
        return verbs, wanted
    return verbs - ignored, wanted - ignored


@functools.cache
def _named(names: tuple[str, ...]) -> frozenset[str]:
    if names in ((), ("none",)):
        return frozenset()
    forms = lemma_table()
    verbs: set[str] = set()
    for name in names:
        if name == "aspectual":
            verbs |= ASPECTUAL_VERBS
        elif forms.get(name) == name:
            verbs.add(name)
        else:
            known = f"; its base form is {forms[name]!r}" if name in forms else ""
            raise RewardError(
                f"ignore_verbs: {name!r} is not the base form of a verb{known}; use 'none', 'aspectual' or verbs such "
                "as 'start,begin'"
            )
    return frozenset(verbs)
