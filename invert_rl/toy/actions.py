"""The toy world as a data set of action classification: segments with verb and noun classes, and a specialist."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.llavaction.segments import Action, Segment
from invert_rl.toy.queries import OBJECTS, VERBS
from invert_rl.toy.scene import ABILITIES, OPPOSITE

VERB_NAMES = tuple(VERBS)
NOUN_NAMES = (*OBJECTS, "body")
"""Verbs that act on no object have the noun "body"."""
NOISE = 1.5
"""Standard deviation of what the toy specialist adds to its scores."""


def acts_on_object(verb: str) -> bool:
    """Whether the verb needs the object: not so ``sit`` or ``wave``."""
    return any(verb in verbs for verbs in ABILITIES.values())


def toy_segment(row: Row) -> Segment:
    """A toy row as an action segment with a short narration, such as ``push the box away``.

    Which of the verb's two wordings it has depends on the row's id alone. Raises `DataError` for other rows.
    """
    if "events" not in row.meta:
        raise DataError(f"row {row.id!r} is not of the toy world: its meta lacks 'events'")
    verb, noun = row.meta["events"][row.meta["event"]][0], row.meta["object"]
    complements = VERBS[verb].complements
    words = complements[zlib.crc32(row.id.encode()) % len(complements)].format(object=noun)
    start, end = row.window
    return Segment(
        id=row.id,
        video=row.video.rpartition(".")[0],
        start=start,
        end=end,
        narration=f"{verb} {words}",
        verb=VERB_NAMES.index(verb),
        noun=NOUN_NAMES.index(noun if acts_on_object(verb) else "body"),
        verb_text=verb,
        noun_text=noun if acts_on_object(verb) else "body",
    )


class ToySpecialist:
    """Confuses what looks alike in the toy world: the true verb, its opposite, and all else that the object allows.

    Its scores are planted and noisy, by seed and row: the true class is not always the best.
    """

    knows_truth = False
    description = "planted confusions of the toy world"

    def __init__(self, rows: Sequence[Row], actions: Sequence[Action], seed: int) -> None:
        self.objects = {row.id: row.meta["object"] for row in rows}
        self.actions = list(actions)
        self.seed = seed

    def ranked(self, place: int, segment: Segment) -> Sequence[Action]:
        rng = np.random.default_rng([self.seed, 2, zlib.crc32(segment.id.encode())])
        scores = rng.normal(0.0, NOISE, size=len(self.actions))
        seen, opposite = self.objects[segment.id], OPPOSITE.get(VERB_NAMES[segment.verb])
        for column, (verb, noun) in enumerate(self.actions):
            possible = NOUN_NAMES[noun] in (seen, "body")
            scores[column] += 6.0 * possible + 4.0 * (possible and VERB_NAMES[verb] == opposite)
            scores[column] += 5.0 * ((verb, noun) == segment.action)
        return [self.actions[column] for column in np.argsort(-scores, kind="stable")]
