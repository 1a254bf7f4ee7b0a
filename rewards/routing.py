"""Rewards for trainers that hand every reward the whole batch: a reward that scores one task's rows only."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from rewards.answers import Completion
from rewards.registry import Reward


def only_for_task(reward: Reward, name: str, columns: Sequence[str]) -> Reward:
    """``reward`` on the rows whose column ``task`` is ``name``, None for the others; without ``task`` on all rows.

    ``columns`` are the names of the columns that ``reward`` reads, of which it gets the rows of its task. Whatever
    else is passed (options, a trainer's state) is handed on as it is. The result is called ``<reward>_reward``.
    """

    @functools.wraps(reward)
    def of_task(
        completions: Sequence[Completion], task: Sequence[str] | None = None, **keywords: Any
    ) -> list[float | None]:
        if task is None:
            return reward(completions, **keywords)
        rows = zip(completions, task, strict=True)
        mine = [index for index, (_, row_task) in enumerate(rows) if row_task == name]
        for column in columns:
            if keywords.get(column) is not None:
                keywords[column] = [keywords[column][index] for index in mine]
        scores: list[float | None] = [None] * len(task)
        for index, score in zip(mine, reward([completions[index] for index in mine], **keywords), strict=True):
            scores[index] = score
        return scores

    of_task.__name__ = of_task.__qualname__ = f"{getattr(reward, '__name__', 'named')}_reward"
    return of_task
