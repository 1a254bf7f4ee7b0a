"""Video description: what happens in the ground-truth segment (paper, eq. 7)."""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.rows import Row
from invert_rl.tasks.base import Task, normalise_query


@dataclass(frozen=True)
class VideoDescription(Task):
    """VD; the query as the taught answer is the paper's Invert-SFT (appendix D: ground-truth clip in, query out)."""

    def answer(self, row: Row) -> str:
        return normalise_query(row.query)


VD = VideoDescription(
    name="vd",
    question="Describe what people have done based on the video.",
    wanted="the description",
    segment=True,
    needs_verbs=True,
    rewards={"vd": 1.0},
)
