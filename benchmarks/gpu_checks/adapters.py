"""LoRA with gradient checkpointing, and QLoRA where bitsandbytes is there: adapters move, the base stays."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from trl import ModelConfig

from benchmarks.gpu_checks.common import random_model, require, trainer_of
from invert_rl.models.tiny import save_tiny_checkpoint
from invert_rl.policy import load_policy

TARGETS = ["q_proj", "v_proj"]


def run(rehearsal: bool) -> dict[str, Any]:
    """One step each; the share of adapter weights that moved."""
    config = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS)
    model = random_model(rehearsal, torch.bfloat16, large=True)
    settings: dict[str, Any] = {"gradient_checkpointing": True, "freeze_vision": True, "learning_rate": 1e-3}
    settings |= {"gradient_checkpointing_kwargs": {"use_reentrant": False}, "large_frames": True}
    result = {"lora_moved": _moved(model, config, rehearsal, settings)}
    if not rehearsal:
        result["lora_peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    if find_spec("bitsandbytes") is None:
        return {**result, "qlora": "skipped, bitsandbytes is not installed"}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = str(save_tiny_checkpoint(Path(folder) / "tiny", "qwen2_5_vl"))
        options = ModelConfig(dtype="bfloat16", load_in_4bit=True, bnb_4bit_quant_type="nf4", use_peft=True)
        options.lora_r, options.lora_target_modules = 8, TARGETS
        policy = load_policy(checkpoint, options)
        result["qlora_moved"] = _moved(policy.model, policy.peft_config, rehearsal, settings)
    return result


def _moved(model: Any, config: Any, rehearsal: bool, settings: dict[str, Any]) -> float:
    with trainer_of(model, rehearsal, config, **settings) as trainer:
        before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
        trainer.train()
    moved = total = 0
    for name, value in trainer.model.named_parameters():
        same = value.detach().cpu() == before[name].cpu()
        if value.requires_grad:
            require(value.dtype == torch.float32, f"{name} is trained in {value.dtype}")
            if "lora_B" in name:  # A has no gradient in the first step: B is 0
                moved += int((~same).sum())
                total += value.numel()
        else:
            require(bool(same.all()), f"{name} is frozen and moved")
    require(moved > 0.9 * total, f"{moved} of {total} adapter weights moved")
    return round(moved / total, 3)
