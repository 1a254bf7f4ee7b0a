"""The toy world as a data set of action classification: segments with verb and noun classes, and a specialist."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.llavaction.segments import Action, Segment
from invert_rl.toy.queries import COLOURS, OBJECTS, VERBS
from invert_rl.toy.scene import ABILITIES, OPPOSITE

VERB_NAMES = tuple(VERBS)
NOUN_NAMES = tuple(f"{noun}:{colour}" for colour in COLOURS for noun in (*OBJECTS, "body"))
"""What is acted on and the actor's colour, as in ``box:red``; verbs that need no object have a body instead."""
NOISE = 1.5
"""Standard deviation of what the toy specialist adds to its scores."""


def acts_on_object(verb: str) -> bool:
    """Whether the verb needs the object: not so ``sit`` or ``wave``."""
    return any(verb in verbs for verbs in ABILITIES.values())


def toy_segment(row: Row) -> Segment:
    """A toy row as an action segment with a short narration in the manner of EPIC-KITCHENS, ``red push cart away``.

    Which of the verb's two wordings it has depends on the row's id alone. Raises `DataError` for other rows.
    """
    if "events" not in row.meta:
        raise DataError(f"row {row.id!r} is not of the toy world: its meta lacks 'events'")
    verb, colour = row.meta["events"][row.meta["event"]][0], row.meta["colour"]
    noun = row.meta["object"] if acts_on_object(verb) else "body"
    complements = VERBS[verb].complements
    words = complements[zlib.crc32(row.id.encode()) % len(complements)].format(object=row.meta["object"])
    start, end = row.window
    return Segment(
        id=row.id,
        video=row.video.rpartition(".")[0],
        start=start,
        end=end,
        narration=" ".join(word for word in f"{colour} {verb} {words}".split() if word not in ("the", "a")),
        verb=VERB_NAMES.index(verb),
        noun=NOUN_NAMES.index(f"{noun}:{colour}"),
        verb_text=verb,
        noun_text=f"{noun}:{colour}",
    )


class ToySpecialist:
    """Confuses what looks alike in the toy world: the true verb, its opposite, and what else the clip allows.

    Its scores are planted and noisy, by seed and row: the true class is not always the best.
    """

    knows_truth = False
    hard = True
    description = "planted confusions of the toy world"

    def __init__(self, rows: Sequence[Row], actions: Sequence[Action], seed: int) -> None:
        self.seen = {
            row.id: (f"{row.meta['object']}:{row.meta['colour']}", f"body:{row.meta['colour']}") for row in rows
        }
        self.actions = list(actions)
        self.seed = seed

    def ranked(self, place: int, segment: Segment) -> Sequence[Action]:
        rng = np.random.default_rng([self.seed, 2, zlib.crc32(segment.id.encode())])
        scores = rng.normal(0.0, NOISE, size=len(self.actions))
        opposite = OPPOSITE.get(VERB_NAMES[segment.verb])
        for column, (verb, noun) in enumerate(self.actions):
            possible = NOUN_NAMES[noun] in self.seen[segment.id]
            scores[column] += 6.0 * possible + 4.0 * (possible and VERB_NAMES[verb] == opposite)
            scores[column] += 5.0 * ((verb, noun) == segment.action)
        return [self.actions[column] for column in np.argsort(-scores, kind="stable")]
