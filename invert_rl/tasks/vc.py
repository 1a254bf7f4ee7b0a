"""Verb completion: the query with its verbs masked, to be completed from the ground-truth segment (paper, eq. 5)."""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.rows import Row
from invert_rl.tasks.base import Task, normalise_query


@dataclass(frozen=True)
class VerbCompletion(Task):
    """VC; rows need ``masked_query`` in their ``meta``."""

    def answer(self, row: Row) -> str:
        return normalise_query(row.query)


VC = VerbCompletion(
    name="vc",
    question='Add a verb for the event "{masked_query}" based on the video.',
    wanted="the complete sentence",
    segment=True,
    needs_verbs=True,
    rewards={"vc": 1.0},
)
