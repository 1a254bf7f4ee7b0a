"""Action recognition: one verb for the ground-truth segment (paper, eq. 6)."""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.rows import Row
from invert_rl.tasks.base import Task


@dataclass(frozen=True)
class ActionRecognition(Task):
    """AR; what is taught is the first verb of the query."""

    def answer(self, row: Row) -> str:
        return row.meta["verbs"][0]


AR = ActionRecognition(
    name="ar",
    question="Use a verb to describe the event based on the video.",
    wanted="the single verb",
    segment=True,
    needs_verbs=True,
    rewards={"ar": 1.0},
)
