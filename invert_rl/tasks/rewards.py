"""Which rewards a run gives to which task, and with what weight: names, or ``module:function`` of one's own."""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeAlias

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.tasks.base import FORM_REWARDS, Task
from invert_rl.tasks.registry import TASKS
from rewards.errors import RewardError
from rewards.registry import get_reward

RewardWeights: TypeAlias = dict[str, dict[str, float]]
"""Weights by task and name of the reward."""
Given: TypeAlias = Sequence[str] | Mapping[str, Mapping[str, float]] | None
"""``["tvg=format:1,iou:1", …]`` as on a command line, or a mapping as in YAML."""
Reward: TypeAlias = Callable[..., Any]

logger = logging.getLogger(__name__)
TRIED = 20
"""Rows that rewards are tried on before a run."""


def reward_weights(given: Given, tasks: Mapping[str, Task]) -> RewardWeights:
    """The rewards of each of ``tasks`` by weight: those that are given, else the task's own.

    Raises `DataError` for a text that cannot be read, an unknown task or reward, a weight that is negative or not
    finite, and a task that is left without a reward of its content.
    """
    chosen = _read(given)
    for name in chosen:
        if name not in TASKS:
            raise DataError(f"rewards: unknown task {name!r}; the tasks are {', '.join(TASKS)}")
        if not chosen[name]:
            raise DataError(f"rewards: task {name!r} is given no reward; leave it out for its own")
    weights = {name: dict(chosen.get(name) or task.default_rewards()) for name, task in tasks.items()}
    for task, of_task in weights.items():
        for name, weight in of_task.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise DataError(f"rewards: the weight of {name!r} for {task} must be a number >= 0, found {weight!r}")
            try:
                get_reward(name)
            except RewardError as error:
                raise DataError(f"rewards: {error}") from error
        if not any(weight > 0 and name not in FORM_REWARDS for name, weight in of_task.items()):
            raise DataError(
                f"rewards: task {task!r} has no reward of its content, only {', '.join(of_task) or 'none'}; it would "
                f"train on the form of answers alone. Name one, such as --rewards {task}=format:1,NAME:1"
            )
    return weights


def _read(given: Given) -> RewardWeights:
    """What is given, as weights by task and reward."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        if not all(isinstance(value, Mapping) for value in given.values()):
            raise DataError(f"rewards: expected a mapping of rewards to weights for each task, found {dict(given)!r}")
        return {str(task): {str(name): weight for name, weight in value.items()} for task, value in given.items()}
    weights: RewardWeights = {}
    for text in given:
        task, equals, items = str(text).partition("=")
        if not equals or not items.strip():
            raise DataError(f"rewards: {text!r} must be TASK=REWARD:WEIGHT,…, such as tvg=format:1,iou:1")
        if task in weights:
            raise DataError(f"rewards: task {task!r} is named twice")
        weights[task] = {}
        for item in items.split(","):
            name, weight = _item(item.strip())
            if name in weights[task]:
                raise DataError(f"rewards: {task} names {name!r} twice")
            weights[task][name] = weight
    return weights


def _item(text: str) -> tuple[str, float]:
    """Name and weight of ``iou``, ``iou:0.5``, ``module:function`` or ``module:function:0.5``."""
    name, _, last = text.rpartition(":")
    try:
        weight = float(last)
    except ValueError:
        name, weight = text, 1.0
    if not name:
        raise DataError(f"rewards: {text!r} must be REWARD or REWARD:WEIGHT")
    return name, weight


class TaskReward:
    """A reward of the tasks that have it, None for the others; what a trainer calls.

    Args:
        name: its name in logs.
        reward: scores every completion that it is given.
        weights: by task.
    """

    def __init__(self, name: str, reward: Reward, weights: Mapping[str, float]) -> None:
        self.__name__ = name
        self.reward = reward
        self.weights = dict(weights)

    def __call__(self, completions: Sequence[Any], task: Sequence[str], **columns: Any) -> list[float | None]:
        mine, columns = self._mine(completions, task, columns)
        return _put(self.reward(**columns) if mine else [], mine, len(completions))

    def _mine(
        self, completions: Sequence[Any], task: Sequence[str], columns: dict[str, Any]
    ) -> tuple[list[int], dict[str, Any]]:
        """The places of its tasks, and the columns at these places; what is no column stays as it is."""
        count = len(completions)
        mine = [place for place, name in enumerate(task) if name in self.weights]
        columns = {**columns, "completions": completions, "task": task}
        return mine, {
            name: [value[place] for place in mine] if isinstance(value, list | tuple) and len(value) == count else value
            for name, value in columns.items()
        }


class AsyncTaskReward(TaskReward):
    """`TaskReward` of an async function, which TRL runs beside the others."""

    async def __call__(  # type: ignore[override]
        self, completions: Sequence[Any], task: Sequence[str], **columns: Any
    ) -> list[float | None]:
        mine, columns = self._mine(completions, task, columns)
        return _put(await self.reward(**columns) if mine else [], mine, len(completions))


def _put(scores: Sequence[float | None], places: Sequence[int], count: int) -> list[float | None]:
    if len(scores) != len(places):
        raise ValueError(f"returned {len(scores)} rewards for {len(places)} completions")
    placed: list[float | None] = [None] * count
    for place, score in zip(places, scores, strict=True):
        placed[place] = score
    return placed


def task_rewards(weights: RewardWeights, options: Mapping[str, Any] | None = None) -> list[TaskReward]:
    """One reward function for each name in ``weights``, in the order in which they are named first.

    ``options`` such as ``verb_match`` and ``pipeline`` go to those functions that have a parameter of that name.
    """
    by_name: dict[str, dict[str, float]] = {}
    for task, of_task in weights.items():
        for name, weight in of_task.items():
            by_name.setdefault(name, {})[task] = weight
    made = []
    for name, of_name in by_name.items():
        reward = with_known(get_reward(name), options or {})
        plain = name.rpartition(":")[2] if ":" in name else name
        made.append((AsyncTaskReward if _is_async(reward) else TaskReward)(plain, reward, of_name))
    return made


def with_known(reward: Reward, options: Mapping[str, Any]) -> Reward:
    """``reward`` with those of ``options`` set that are parameters of it."""
    known = inspect.signature(reward).parameters
    chosen = {name: value for name, value in options.items() if name in known}
    return functools.partial(reward, **chosen) if chosen else reward


def content_scores(
    task: Task, texts: Sequence[str], rows: Sequence[Row], weights: Mapping[str, float], options: Mapping[str, Any]
) -> list[float]:
    """The rewards of the content of answers, each to a row: their mean by weight, 0 where none can be given.

    ``weights`` are a task's of `reward_weights`; rewards of the form count nothing.
    """
    if not texts:
        return []
    table = [task.columns(row) for row in rows]
    columns = {name: [values[name] for values in table] for name in table[0]}
    total = [0.0] * len(texts)
    content = {name: weight for name, weight in weights.items() if name not in FORM_REWARDS}
    for name, weight in content.items():
        scores = with_known(get_reward(name), options)(completions=list(texts), **columns)
        for place, score in enumerate(scores):
            total[place] += weight * (score or 0.0)
    return [value / (sum(content.values()) or 1.0) for value in total]


def try_rewards(
    weights: RewardWeights, tasks: Mapping[str, Task], rows: Sequence[Row], options: Mapping[str, Any]
) -> None:
    """Call each reward on the annotated and on an empty answer to a row, before anything is loaded.

    Raises `DataError` naming the reward that raises, or that returns something else than one number or None for each,
    or one of this library that gives the same for both answers to each of `TRIED` rows. A user's own is only warned of.
    """
    for name, task in tasks.items():
        tried = list(islice(task.rows(rows), TRIED))
        answered = any(task.answer(row) is not None for row in tried)
        if not tried:
            continue
        for chosen, weight in weights[name].items():
            (reward,) = task_rewards({name: {chosen: weight}}, options)
            if isinstance(reward, AsyncTaskReward):
                continue
            where = f"reward {reward.__name__!r} of task {name!r}"
            if any(given != empty for given, empty in (_tried(reward, task, row, where) for row in tried)):
                continue
            if not answered:
                continue  # there is no annotated answer to compare with
            same = f"{where} gives an annotated answer no more and no less than an empty one, for {len(tried)} rows"
            if get_reward(chosen).__module__.startswith("rewards.") and weight > 0:
                raise DataError(f"rewards: {same}: it can teach this task nothing; name a reward of the task's own")
            logger.warning("%s", same)


def _tried(reward: TaskReward, task: Task, row: Row, where: str) -> list[float | None]:
    """What the annotated answer to a row is given, and an empty one."""
    texts = [task.target(row) if task.answer(row) is not None else "", ""]
    columns = {key: [value, value] for key, value in task.columns(row).items()}
    try:
        scores = reward(completions=texts, **columns)
    except Exception as error:  # whatever the user's code raises
        raise DataError(f"{where} raised {type(error).__name__}: {error}, for row {row.id!r}") from error
    for score in scores:
        number = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
        if score is not None and not number:
            raise DataError(f"{where} returned {score!r} for row {row.id!r}; a reward is a finite number or None")
    return scores


def _is_async(reward: Reward) -> bool:
    """Whether calling it gives something to await, as TRL judges it."""
    while isinstance(reward, functools.partial):
        reward = reward.func
    return inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(type(reward).__call__)
