"""Attention of completions to a shared prompt by merged kernels, against masks in higher precision."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu_checks.common import device_of, require, seconds
from invert_rl.grpo import packed_attention
from invert_rl.grpo.packed_layout import PackedLayout


def run(rehearsal: bool) -> dict[str, Any]:
    """Outputs and gradients of one layer with the heads of Qwen2.5-VL-3B: errors of both ways, and times."""
    device = device_of(rehearsal)
    prompt, completion, group, query_heads, heads, size = (
        (60, 8, 4, 4, 2, 32) if rehearsal else (3630, 128, 8, 16, 2, 128)
    )
    dtype, exact = (torch.float32, torch.float64) if rehearsal else (torch.bfloat16, torch.float32)
    torch.manual_seed(0)
    layout = PackedLayout([(prompt, [completion] * group)], device)
    given = [torch.randn(1, n, layout.length, size, device=device, dtype=dtype) for n in (query_heads, heads, heads)]

    def pass_through(way: Any, precision: torch.dtype) -> tuple[torch.Tensor, ...]:
        inputs = [tensor.to(precision).requires_grad_() for tensor in given]
        output = way(*inputs, layout, None, 0.0)
        weights = torch.linspace(-1, 1, output.numel(), device=device, dtype=precision).view_as(output)
        return output.detach(), *torch.autograd.grad((output * weights).sum(), inputs)

    true = pass_through(packed_attention.masked_attention, exact)
    ways = {"merged": packed_attention._cascade, "masked": packed_attention.masked_attention}
    errors, times, peaks = {}, {}, {}
    for name, way in ways.items():
        found = pass_through(way, dtype)
        errors[name] = max(((a.to(exact) - b).norm() / b.norm()).item() for a, b in zip(found, true, strict=True))
        del found
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times[name] = min(seconds(device, lambda way=way: pass_through(way, dtype)) for _ in range(3))
        peaks[name] = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0.0
    require(errors["merged"] <= 2 * errors["masked"] + 1e-6, f"merged kernels are off by {errors['merged']:.2g}")
    return {
        **{f"{name}_error": float(f"{value:.3g}") for name, value in errors.items()},
        **{f"{name}_ms": round(1e3 * value, 2) for name, value in times.items()},
        **{f"{name}_peak_mib": round(value) for name, value in peaks.items()},
        "ratio": round(times["masked"] / times["merged"], 2),
    }
