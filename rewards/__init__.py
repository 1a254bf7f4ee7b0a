"""Rewards for temporal grounding and its inverted tasks: text in, number out, for any trainer.

Every reward has TRL's signature ``fn(completions, **columns) -> list[float | None]``; None means that the
completion belongs to another task. Nothing here imports torch.
"""

from rewards.answers import extract_answer, parse_span
from rewards.errors import RewardError
from rewards.format import format_reward
from rewards.iou import (
    giou_reward,
    interval_giou,
    interval_iou,
    iou_reward,
    multi_window_iou_reward,
    timestamp_iou_reward,
)
from rewards.pipelines import VerbPipeline, load_pipeline
from rewards.verbs import ar_reward, vc_reward, vd_reward, with_options

__all__ = [
    "RewardError",
    "VerbPipeline",
    "ar_reward",
    "extract_answer",
    "format_reward",
    "giou_reward",
    "interval_giou",
    "interval_iou",
    "iou_reward",
    "load_pipeline",
    "multi_window_iou_reward",
    "parse_span",
    "timestamp_iou_reward",
    "vc_reward",
    "vd_reward",
    "with_options",
]
