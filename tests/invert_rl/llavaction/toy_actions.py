"""The toy world as a data set of action classification: segments with verb and noun classes."""

from __future__ import annotations

import zlib

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.llavaction.segments import Segment
from invert_rl.toy.queries import COLOURS, OBJECTS, VERBS
from invert_rl.toy.scene import ABILITIES

VERB_NAMES = tuple(VERBS)
NOUN_NAMES = tuple(f"{noun}:{colour}" for colour in COLOURS for noun in (*OBJECTS, "body"))
"""What is acted on and the actor's colour, as in ``box:red``; verbs that need no object have a body instead."""


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
