"""One group's forward and backward at the shape of Qwen2.5-VL-3B: each prompt once, against G copies of it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import torch

from benchmarks import grpo_step
from benchmarks.gpu_checks.common import require

FURTHEST = 0.3
"""Largest difference of a token's log-probability in bf16 over 36 layers of random weights."""


def run(rehearsal: bool) -> dict[str, Any]:
    """3,584 video tokens, G 8, completions of 128 tokens, bf16, gradient checkpointing: times, peaks, ratio."""
    if rehearsal:
        return _rehearse()
    command = [sys.executable, "-m", "benchmarks.grpo_step", "--device", "cuda", "--model", "3b", "--prompt", "3630"]
    command += ["--completion", "128", "--group", "8", "--gradient-checkpointing", "--no-flops", "--json"]
    found = subprocess.run([*command, "--repeats", "1"], capture_output=True, text=True)
    require(found.returncode == 0, found.stderr[-2000:])
    result = json.loads(found.stdout.strip().splitlines()[-1])
    require(
        result["max_logp_difference"] < FURTHEST, f"log-probabilities differ by {result['max_logp_difference']:.3g}"
    )
    kept = ("stock_seconds", "shared_seconds", "ratio", "stock_peak_mib", "shared_peak_mib", "memory_ratio")
    return {name: result[name] for name in (*kept, "max_logp_difference", "parameters")}


def _rehearse() -> dict[str, Any]:
    device, shape = torch.device("cpu"), {"prompt": 100, "completion": 4, "group": 2}
    scores = {}
    for side in grpo_step.SIDES:
        model = grpo_step.build_model("qwen2_5_vl", "shallow", device)
        inputs = grpo_step.build_inputs(model, side, shape, device)
        scores[side] = grpo_step.forward_backward(model, inputs, shape["completion"])
    difference = (scores["stock"] - scores["shared"]).abs().max().item()
    require(difference < 1e-4, f"log-probabilities differ by {difference:.3g}")
    return {"max_logp_difference": float(f"{difference:.3g}")}
