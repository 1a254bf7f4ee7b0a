"""EPIC-KITCHENS-100's own splits of its validation set, and predictions in the format of its challenge."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_csv
from data_prep.rows import Row
from invert_rl.llavaction.answers.choices import Choice
from invert_rl.llavaction.answers.structured import chosen_action, true_action
from invert_rl.llavaction.segments import parse_action

VERSION = "0.2"
"""Of the challenge's format [R epic-kitchens/C1-Action-Recognition utils/challenge.py], as the names below."""
VERBS, NOUNS = 97, 300
MEMBER = "test.json"
HIGHEST_LEVEL = 5
OFFERED = 0.5
"""Score of what was offered and not chosen [C]."""


@dataclass(frozen=True)
class Splits:
    """Which classes are rare and which participants the training set does not have."""

    tail_verbs: frozenset[int] = frozenset()
    tail_nouns: frozenset[int] = frozenset()
    unseen: frozenset[str] = frozenset()
    """Participants, such as ``P18``."""

    def rows(self, rows: Sequence[Row], task: str = "action") -> dict[str, list[Row]]:
        """The rows of each split that is known: ``tail``, ``head`` (the others), ``unseen``, ``seen``.

        The tail of "verb" are rows with a rare verb, that of "noun" those with a rare noun, that of "action" both
        [R epic-kitchens/C1-Action-Recognition utils/metrics.py].
        """
        found: dict[str, list[Row]] = {}
        if self.tail_verbs or self.tail_nouns:
            tail = [row for row in rows if self.is_tail(row, task)]
            names = {row.id for row in tail}
            found |= {"tail": tail, "head": [row for row in rows if row.id not in names]}
        if self.unseen:
            found["unseen"] = [row for row in rows if participant(row) in self.unseen]
            found["seen"] = [row for row in rows if participant(row) not in self.unseen]
        return {name: members for name, members in found.items() if members}

    def is_tail(self, row: Row, task: str = "action") -> bool:
        """Whether the row's verb is rare, or its noun, or for "action" either."""
        verb, noun = true_action(row)
        rare = {"verb": verb in self.tail_verbs, "noun": noun in self.tail_nouns}
        return rare[task] if task in rare else any(rare.values())


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
    """Structured answers as the challenge's own `create_submission.py` writes scores: one entry for each narration id.

    Each has a score for all 97 verbs and all 300 nouns: 1 for those of the chosen class, `OFFERED` for those of the
    question's other options (a model that chooses does not rank these), 0 for the rest; the challenge makes actions of
    their products. ``levels`` are the three supervision levels, 0 to 5: pretraining, labels, data. Raises `DataError`
    for other levels and for classes that EPIC-KITCHENS-100 does not have.
    """
    if not all(0 <= level <= HIGHEST_LEVEL for level in levels):
        raise DataError(f"--supervision: levels are 0 to {HIGHEST_LEVEL}, found {' '.join(map(str, levels))}")
    none = Choice(None, None)
    results = {}
    for row in rows:
        verb, noun = chosen_action(row, choices.get(row.id, none))
        others = [parse_action(key, f"row {row.id!r}") for key in row.meta["option_classes"]]
        results[row.id] = {
            "verb": _scores(row, verb, [other for other, _ in others], VERBS),
            "noun": _scores(row, noun, [other for _, other in others], NOUNS),
        }
    return {
        "version": VERSION,
        "challenge": "action_recognition",
        **dict(zip(("sls_pt", "sls_tl", "sls_td"), levels, strict=True)),
        "results": results,
    }


def write_submission(path: Path, content: Mapping[str, Any]) -> None:
    """Write a submission as JSON, or where the name ends in ``.zip`` as the challenge takes it: `MEMBER` in a zip."""
    if path.suffix != ".zip":
        with atomic_write(path) as out:
            json.dump(content, out)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with ZipFile(temporary, "w", ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, json.dumps(content))
    os.replace(temporary, path)


def _scores(row: Row, chosen: int, offered: Sequence[int], count: int) -> dict[str, float]:
    if not all(0 <= number < count for number in (chosen, *offered)):
        raise DataError(f"row {row.id!r}: the challenge has {count} classes, the question {max(chosen, *offered)}")
    scores = {str(number): 0.0 for number in range(count)}
    return scores | {str(number): OFFERED for number in offered} | {str(chosen): 1.0}


def _column(path: str | os.PathLike[str] | None, name: str) -> Collection[str]:
    if path is None:
        return ()
    values = [record[name].strip() for _, record in read_csv(path, (name,))]
    if not values:
        raise DataError(f"{path}: its column {name!r} is empty")
    return values
