"""The rewards of a run: format, IoU and the verb match of each inverted task (paper, eq. 5 to 11)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from invert_rl.grpo.config import InvertGRPOConfig
from rewards.format import format_reward
from rewards.iou import iou_reward
from rewards.pipelines import VerbPipeline
from rewards.verbs import ar_reward, vc_reward, vd_reward, with_options

Reward: TypeAlias = Callable[..., Sequence[float | None]]


def reward_functions(args: InvertGRPOConfig, pipeline: VerbPipeline | None) -> list[Reward]:
    """Reward functions of the chosen tasks, with equal weights (paper, eq. 10 and 11).

    ``pipeline`` finds the verbs; None if no inverted task is chosen.
    """
    how = {"verb_score": args.verb_reward, "pipeline": pipeline}
    rewards: list[Reward] = [format_reward]
    if "tvg" in args.tasks:
        rewards.append(iou_reward)
    if "vc" in args.tasks:
        rewards.append(with_options(vc_reward, verb_match=args.verb_match, **how))
    if "ar" in args.tasks:
        rewards.append(with_options(ar_reward, **how))
    if "vd" in args.tasks:
        rewards.append(with_options(vd_reward, verb_match=args.verb_match, **how))
    return rewards
