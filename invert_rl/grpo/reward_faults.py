"""Reward functions that raise: noted for the rows at fault, so that no rank stops alone while the others wait for it.

A reward is the user's code and runs on each rank by itself. When it raises for a row, all ranks learn of it, the
whole group of that row is replaced by another row's, and the round is generated again (`InvertGRPOTrainer`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import nn
from trl.trainer.utils import is_async_callable

logger = logging.getLogger(__name__)

Prompt: TypeAlias = tuple[str, int]
"""Task and number of the row, which all completions of a group share."""


class RewardsFailed(Exception):
    """A reward raised on at least one rank; raised on all ranks, with what failed on any of them."""

    def __init__(self, failures: dict[Prompt, str]) -> None:
        super().__init__(failures)
        self.failures = failures
        """What was wrong, by prompt."""


def note_failures(
    reward: Callable[..., Any], name: str, prompts: Sequence[Prompt], failures: dict[Prompt, str]
) -> Callable[..., Any]:
    """A reward function like ``reward`` that never raises: it notes in ``failures`` what did, and returns None for it.

    ``prompts`` are those of the completions that it will be called with. When a call raises, each group is scored by
    itself to find those at fault; where none fails alone, and for async functions, all are taken to be. A model as
    reward is returned as it is.
    """
    if isinstance(reward, nn.Module):
        return reward

    def note(at_fault: Sequence[Prompt], error: Exception) -> None:
        logger.warning("reward %s raised for %s", name, list(at_fault), exc_info=error)
        for prompt in at_fault:
            failures.setdefault(prompt, f"reward {name} raised {type(error).__name__}: {error}")

    async def awaited(**columns: Any) -> list[float | None]:
        try:
            return _numbers(await reward(**columns), len(prompts))
        except Exception as error:  # whatever the user's code raises
            note(list(dict.fromkeys(prompts)), error)
            return [None] * len(prompts)

    def called(**columns: Any) -> list[float | None]:
        try:
            return _numbers(reward(**columns), len(prompts))
        except Exception as error:
            groups = {prompt: [i for i, other in enumerate(prompts) if other == prompt] for prompt in prompts}
            rewards: list[float | None] = [None] * len(prompts)
            found = False
            for prompt, places in groups.items():
                try:
                    own = _numbers(reward(**_part(columns, places, len(prompts))), len(places))
                except Exception as own_error:
                    note([prompt], own_error)
                    found = True
                else:
                    for place, value in zip(places, own, strict=True):
                        rewards[place] = value
            if not found:
                note(list(groups), error)
            return rewards

    return awaited if is_async_callable(reward) else called


def _numbers(rewards: Sequence[float | None], count: int) -> list[float | None]:
    if len(rewards) != count:
        raise ValueError(f"returned {len(rewards)} rewards for {count} completions")
    return [None if reward is None else float(reward) for reward in rewards]


def _part(columns: dict[str, Any], places: Sequence[int], count: int) -> dict[str, Any]:
    """The columns of some of ``count`` completions; what is no column stays as it is."""
    return {
        name: [column[place] for place in places] if isinstance(column, list) and len(column) == count else column
        for name, column in columns.items()
    }
