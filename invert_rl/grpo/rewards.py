"""The rewards of a run: those of each task by name and weight (paper, eq. 5 to 11)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from data_prep.rows import Row
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.tasks import Preset
from invert_rl.tasks.rewards import RewardWeights, TaskReward, task_rewards, try_rewards
from rewards.pipelines import VerbPipeline

Reward: TypeAlias = Callable[..., Sequence[float | None]]


def reward_functions(
    args: InvertGRPOConfig,
    preset: Preset,
    weights: RewardWeights,
    pipeline: VerbPipeline | None,
    rows: Sequence[Row] = (),
) -> list[TaskReward]:
    """Reward functions of the chosen tasks, by ``weights``; each is tried on one of ``rows``.

    ``pipeline`` finds the verbs; None if no task needs them. Raises `DataError` for a reward that raises or returns
    something else than a number or None for each completion.
    """
    tasks = preset.only(args.tasks).tasks
    options: dict[str, Any] = args.verb_options(pipeline, args.verb_reward)
    try_rewards(weights, tasks, rows, options)
    return task_rewards(weights, options)
