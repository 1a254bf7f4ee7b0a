"""Rewards for temporal grounding and its inverted tasks: text in, number out, for any trainer.

Every reward has TRL's signature ``fn(completions, **columns) -> list[float | None]``. `get_reward` finds one by its
name; it scores every completion that it is given. The functions ``…_reward`` are for trainers that hand every reward
the whole batch: with a column ``task`` they return None for rows of other tasks. Nothing here imports torch.
"""

from rewards.answers import extract_answer, parse_span, parse_spans, read_spans, says_nothing_matches
from rewards.errors import RewardError
from rewards.format import format_reward, matches_format
from rewards.iou import (
    giou_reward,
    interval_giou,
    interval_iou,
    iou_reward,
    multi_window_iou_reward,
    timestamp_iou_reward,
)
from rewards.pipelines import VerbPipeline, load_pipeline
from rewards.registry import get_reward, register_reward, reward_names
from rewards.routing import only_for_task
from rewards.spans import set_iou, wasserstein
from rewards.verbs import ar_reward, vc_reward, vd_reward, with_options

__all__ = [
    "RewardError",
    "VerbPipeline",
    "ar_reward",
    "extract_answer",
    "format_reward",
    "get_reward",
    "giou_reward",
    "interval_giou",
    "interval_iou",
    "iou_reward",
    "load_pipeline",
    "matches_format",
    "multi_window_iou_reward",
    "only_for_task",
    "parse_span",
    "parse_spans",
    "read_spans",
    "register_reward",
    "reward_names",
    "says_nothing_matches",
    "set_iou",
    "timestamp_iou_reward",
    "vc_reward",
    "vd_reward",
    "wasserstein",
    "with_options",
]
