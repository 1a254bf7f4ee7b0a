"""A whole GRPO step of a random Qwen2.5-VL-3B, rollouts by transformers; and what the plan said of it."""

from __future__ import annotations

import math
from typing import Any

import torch
from trl import ModelConfig

from benchmarks.gpu_checks.common import GIB, random_model, require, trainer_of
from invert_rl.plan.job import Launch, job_of
from invert_rl.plan.memory import memory_of
from invert_rl.plan.sizes import sizes_of

ROOMY = 100 * GIB
"""From this much memory on the tower is trained as well."""


def run(rehearsal: bool) -> dict[str, Any]:
    """Two steps; seconds of the second by part, peak memory, and the ratio of the planned to the measured peak."""
    capacity = float(64 * GIB) if rehearsal else float(torch.cuda.get_device_properties(0).total_memory)
    freeze = capacity < ROOMY
    model = random_model(rehearsal, torch.bfloat16, large=True)
    settings: dict[str, Any] = {"max_steps": 2, "freeze_vision": freeze, "gradient_checkpointing": True}
    settings |= {"gradient_checkpointing_kwargs": {"use_reentrant": False}, "large_frames": True}
    settings |= {"optim": "adamw_torch_fused" if not rehearsal else "adamw_torch"}
    with trainer_of(model, rehearsal, **settings) as trainer:
        if not rehearsal:
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
        length = max(len(prompt) for prompt in _prompts(trainer))
    logs = [log for log in trainer.state.log_history if "loss" in log]
    require(len(logs) == 2, f"{len(logs)} steps were logged")
    for log in logs:
        require(math.isfinite(log["loss"]) and math.isfinite(log["grad_norm"]), f"loss or gradient: {log}")
    require(logs[0]["grad_norm"] > 0, "no gradient arrived")
    last = logs[-1]
    result: dict[str, Any] = {"step_seconds": round(last["step_time"], 2), "vision_trained": not freeze}
    for part in ("rollout", "vision", "score", "update", "encode", "decode"):
        result[f"{part}_seconds"] = round(last.get(f"time/{part}", 0.0), 3)
    result["self_check"] = logs[0].get("score/self_check")
    require(trainer.shares_prompts, "shared prompts failed their self-check, see the log")
    job = job_of(trainer.args, ModelConfig(dtype="bfloat16"), Launch(mixed_precision="bf16"), "random 3B")
    planned = memory_of(job, sizes_of(trainer.model.config), length, length, capacity)
    result["prompt_tokens"] = length
    result["planned_gib"] = round(planned.total / GIB, 1)
    if not rehearsal:
        peak = torch.cuda.max_memory_allocated()
        result["peak_gib"] = round(peak / GIB, 1)
        result["planned_to_measured"] = round(planned.total / peak, 2)
    return result


def _prompts(trainer: Any) -> list[list[int]]:
    """Prompt tokens of the rows that were trained on."""
    from invert_rl.tasks import TASKS, messages, video_of

    chats = [messages(TASKS["tvg"], row) for row in trainer.train_dataset.rows]
    return [trainer.encoder(chat, trainer.store.clip(video_of(chat))).input_ids for chat in chats]
