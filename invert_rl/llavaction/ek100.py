"""EPIC-KITCHENS-100's own splits of its validation set, and predictions in the format of its challenge."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.errors import DataError
from data_prep.files import read_csv
from data_prep.rows import Row
from invert_rl.llavaction.choices import Choice
from invert_rl.llavaction.segments import parse_action
from invert_rl.llavaction.structured import chosen_action, true_action

VERSION = "0.2"
"""Of the challenge's format."""


@dataclass(frozen=True)
class Splits:
    """Which classes are rare and which participants the training set does not have."""

    tail_verbs: frozenset[int] = frozenset()
    tail_nouns: frozenset[int] = frozenset()
    unseen: frozenset[str] = frozenset()
    """Participants, such as ``P18``."""

    def rows(self, rows: Sequence[Row]) -> dict[str, list[Row]]:
        """The rows of each split that is known: ``tail`` (a rare verb or noun), ``head``, ``unseen``, ``seen``."""
        found: dict[str, list[Row]] = {}
        if self.tail_verbs or self.tail_nouns:
            tail = [row for row in rows if self.is_tail(row)]
            names = {row.id for row in tail}
            found |= {"tail": tail, "head": [row for row in rows if row.id not in names]}
        if self.unseen:
            found["unseen"] = [row for row in rows if participant(row) in self.unseen]
            found["seen"] = [row for row in rows if participant(row) not in self.unseen]
        return {name: members for name, members in found.items() if members}

    def is_tail(self, row: Row) -> bool:
        """Whether the row's verb or noun is rare: a rare action in the challenge's sense."""
        verb, noun = true_action(row)
        return verb in self.tail_verbs or noun in self.tail_nouns


def participant(row: Row) -> str:
    """Who filmed the row's video: the part of its id before the first ``_``."""
    return row.id.split("_")[0]


def read_splits(
    tail_verbs: str | os.PathLike[str] | None,
    tail_nouns: str | os.PathLike[str] | None,
    unseen: str | os.PathLike[str] | None,
) -> Splits:
    """From ``EPIC_100_tail_verbs.csv``, ``EPIC_100_tail_nouns.csv`` and
    ``EPIC_100_unseen_participant_ids_validation.csv`` (columns ``verb``, ``noun``, ``participant_id``)."""
    return Splits(
        frozenset(int(value) for value in _column(tail_verbs, "verb")),
        frozenset(int(value) for value in _column(tail_nouns, "noun")),
        frozenset(_column(unseen, "participant_id")),
    )


def submission(choices: Mapping[str, Choice], rows: Sequence[Row], levels: Sequence[int]) -> dict[str, Any]:
    """Structured answers as the challenge's action recognition wants them, one entry for each narration id.

    A clip's chosen class scores 1, the other options of its question share what order they have (all 0: a model that
    chooses ranks nothing else). ``levels`` are the challenge's three supervision levels: pretraining, labels, data.
    """
    none = Choice(None, None)
    results = {}
    for row in rows:
        chosen = chosen_action(row, choices.get(row.id, none))
        actions = dict.fromkeys((parse_action(key, row.id) for key in row.meta["option_classes"]), 0.0)
        actions[chosen] = 1.0
        verbs = {str(verb): 0.0 for verb, _ in actions} | {str(chosen[0]): 1.0}
        nouns = {str(noun): 0.0 for _, noun in actions} | {str(chosen[1]): 1.0}
        results[row.id] = {
            "verb": verbs,
            "noun": nouns,
            "action": {f"{verb},{noun}": score for (verb, noun), score in actions.items()},
        }
    return {
        "version": VERSION,
        "challenge": "action_recognition",
        **dict(zip(("sls_pt", "sls_tl", "sls_td"), levels, strict=True)),
        "results": results,
    }


def _column(path: str | os.PathLike[str] | None, name: str) -> Collection[str]:
    if path is None:
        return ()
    values = [record[name].strip() for _, record in read_csv(path, (name,))]
    if not values:
        raise DataError(f"{path}: its column {name!r} is empty")
    return values
