"""For verl: ``custom_reward_function.path=examples/verl_reward.py custom_reward_function.name=compute_score``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # verl loads this file by its path
from ground_truth import score


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None, **kwargs: Any
) -> dict[str, float]:
    """verl takes ``score`` as the reward and logs the rest."""
    parts = score(solution_str, ground_truth)
    return {"score": parts["overall"], "format": parts["format"], "content": parts["content"]}
