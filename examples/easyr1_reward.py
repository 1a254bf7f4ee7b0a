"""For EasyR1: ``worker.reward.reward_function=examples/easyr1_reward.py:compute_score`` with ``reward_type=batch``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # EasyR1 loads this file by its path
from ground_truth import score


def compute_score(reward_inputs: list[dict[str, Any]], format_weight: float = 0.5) -> list[dict[str, float]]:
    """Each input has ``response``, ``response_length`` and ``ground_truth``; ``overall`` is the reward."""
    scores = []
    for item in reward_inputs:
        parts = score(item["response"], item["ground_truth"], format_weight)
        scores.append({"overall": parts["overall"], "format": parts["format"], "accuracy": parts["content"]})
    return scores
