"""The vision tower in few attention calls, against transformers' one call a window."""

from __future__ import annotations

import copy
from typing import Any

import torch

from benchmarks import vision
from benchmarks.gpu_checks.common import device_of, require, seconds
from invert_rl.models import segment_attention


def run(rehearsal: bool) -> dict[str, Any]:
    """Errors of both ways in bf16 against fp32, and the time of a forward, for both kinds of tower."""
    device = device_of(rehearsal)
    shape, grid = ("tiny heads", [2, 8, 12]) if rehearsal else ("released", [12, 34, 34])
    results: dict[str, Any] = {}
    for family in ("qwen2_5_vl", "qwen3_vl"):
        tower = vision.build(family, vision.SHAPES[shape]).to(device).eval()
        segment_attention.use_segments(tower)
        config: Any = tower.config
        pixels = torch.randn(grid[0] * grid[1] * grid[2], 3 * 2 * config.patch_size**2, device=device)
        grids = torch.tensor([grid], device=device)
        half = copy.deepcopy(tower).bfloat16()
        half_config: Any = half.config

        def features(way: str, model: Any, settings: Any, patches: torch.Tensor) -> torch.Tensor:
            settings._attn_implementation = way
            with torch.no_grad():
                return model(patches, grid_thw=grids).pooler_output.float()  # noqa: B023 - called within the loop

        true = features("sdpa", tower, config, pixels)
        errors, times = {}, {}
        for name, way in (("stock", "sdpa"), ("batched", segment_attention.NAME)):
            call = lambda way=way: features(way, half, half_config, pixels.bfloat16())  # noqa: E731, B023
            errors[name] = ((call() - true).norm() / true.norm()).item()
            times[name] = min(seconds(device, call) for _ in range(3))
        batched = features(segment_attention.NAME, tower, config, pixels)
        exact = ((batched - true).norm() / true.norm()).item()
        require(exact < 1e-4, f"{family}: in fp32 the tower is off by {exact:.2g}")
        require(errors["batched"] <= 1.5 * errors["stock"] + 1e-4, f"{family}: off by {errors['batched']:.2g} in bf16")
        results |= {
            f"{family}_fp32_difference": float(f"{exact:.2g}"),
            f"{family}_stock_ms": round(1e3 * times["stock"], 2),
            f"{family}_batched_ms": round(1e3 * times["batched"], 2),
            f"{family}_ratio": round(times["stock"] / times["batched"], 2),
        }
    return results
