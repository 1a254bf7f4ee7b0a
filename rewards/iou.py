"""The span rewards for trainers that hand every reward the whole batch: None for rows of other tasks than TVG.

Each is the reward of the same name in `rewards.span_rewards`; without a column ``task`` it scores every row.
"""

from __future__ import annotations

from rewards import span_rewards
from rewards.routing import only_for_task
from rewards.span_rewards import MAX_SPANS
from rewards.spans import interval_giou, interval_iou, is_interval, matched_iou, timestamp_iou

__all__ = [
    "MAX_SPANS",
    "giou_reward",
    "interval_giou",
    "interval_iou",
    "iou_reward",
    "is_interval",
    "matched_iou",
    "multi_window_iou_reward",
    "timestamp_iou",
    "timestamp_iou_reward",
]

iou_reward = only_for_task(span_rewards.iou, "tvg", ["windows"])
giou_reward = only_for_task(span_rewards.giou, "tvg", ["windows"])
timestamp_iou_reward = only_for_task(span_rewards.timestamp_iou, "tvg", ["windows", "duration"])
multi_window_iou_reward = only_for_task(span_rewards.multi_window_iou, "tvg", ["windows"])
