"""One row's reward from a ``ground_truth`` text, for frameworks that hand on nothing else."""

from __future__ import annotations

import json
from typing import Any

from invert_rl.rewards import RewardError, get_reward

CONTENT = {"tvg": "iou", "vc": "vc", "ar": "ar", "vd": "vd"}
"""The reward of each task's content."""


def score(completion: str, ground_truth: str | dict[str, Any], format_weight: float = 0.5) -> dict[str, float]:
    """Weighted mean of form and content, and both, in [0, 1].

    ``ground_truth`` is a JSON object with ``task`` (default tvg) and ``windows`` or ``verbs``. Raises `RewardError` for
    an unknown task or a missing column.
    """
    truth = json.loads(ground_truth) if isinstance(ground_truth, str) else dict(ground_truth)
    task = truth.get("task", "tvg")
    if task not in CONTENT:
        raise RewardError(f"ground_truth: unknown task {task!r}; use {', '.join(CONTENT)}")
    columns = {name: [truth[name]] for name in ("windows", "verbs", "duration") if name in truth}
    needed = "windows" if task == "tvg" else "verbs"
    if needed not in columns:
        raise RewardError(f"ground_truth: task {task} needs {needed!r}, found {sorted(truth)}")
    form = get_reward("format")([completion], task=[task])[0] or 0.0
    content = get_reward(CONTENT[task])([completion], **columns)[0] or 0.0
    return {"overall": format_weight * form + (1 - format_weight) * content, "format": form, "content": content}
