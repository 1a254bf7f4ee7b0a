"""What a toy clip holds at which time, and which of its tokens show it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data_prep.rows import Row
from invert_rl.toy.shown import IGNORED, look_at, marks
from invert_rl.toy.tower import NAMES

EVENTS = [["walk", 0.5, 2.0], ["open", 3.25, 5.75]]
META = {"events": EVENTS, "event": 1, "object": "box", "colour": "red"}
OPEN = Row("b", "v.mp4", 12.0, "Someone opens the box.", ((3.25, 5.75),), meta=META)


def test_marks_say_what_a_time_holds():
    walk, opening = NAMES.index("walk"), NAMES.index("open")
    assert marks(OPEN, np.array([0.0, 0.5, 1.75, 2.0, 4.0, 5.75])).tolist() == [
        [0, IGNORED, IGNORED],
        [walk, 2, IGNORED],
        [walk, 2, IGNORED],
        [0, IGNORED, 8],
        [opening, 13, 8],
        [0, IGNORED, 23],
    ]


def test_a_clip_shows_an_event_in_the_groups_that_it_overlaps(world, start):
    rows, store = world
    processor, model = start
    row = replace(rows[0], meta={**rows[0].meta, "events": EVENTS})
    shown = look_at(model.model.visual, processor, row, store)
    assert shown.features.shape == (48, 64) and shown.told.shape == (48, 3)
    groups = [[int(at) for at in event.view(12, 4).all(1).nonzero()] for event in shown.shows]
    assert groups == [[0, 1], [3, 4, 5]]  # of one second each
    assert set(shown.shows.unique().tolist()) == {0.0, 1.0}
    assert [NAMES[verb] for verb in shown.verbs] == ["walk", "open"]
