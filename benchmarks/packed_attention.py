"""Attention of completions to a long prompt and to themselves: by masks, against two calls merged by log-sum-exp.

``python benchmarks/packed_attention.py [--prompt 16384 --completion 128 --group 8] [--json]`` takes one layer's random
queries, keys and values, fp32 on one thread, forward and backward. The prompt's attention to itself, the same call in
both, is left out. Time is processor time; memory is the peak above what the inputs take.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.grpo_step import peak_memory
from invert_rl.grpo import packed_attention
from invert_rl.grpo.packed_layout import PackedLayout


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=16384, help="prompt tokens")
    parser.add_argument("--completion", type=int, default=128, help="tokens of a completion")
    parser.add_argument("--group", type=int, default=8, help="completions of the prompt")
    parser.add_argument("--heads", type=int, nargs=2, default=[4, 2], help="query heads and key-value heads")
    parser.add_argument("--size", type=int, default=64, help="size of a head")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device("cpu")
    layout = PackedLayout([(args.prompt, [args.completion] * args.group)], device)
    heads, shared = args.heads
    inputs = [torch.randn(1, n, layout.length, args.size, requires_grad=True) for n in (heads, shared, shared)]
    packed_attention._trunk_attention = lambda query, *_: torch.zeros_like(query)
    gradients = []

    def run(way: Any) -> float:
        start = time.process_time()
        way(*inputs, layout, None, 0.0).sum().backward()
        seconds = time.process_time() - start
        gradients.append(inputs[1].grad)
        for tensor in inputs:
            tensor.grad = None
        return seconds

    result: dict[str, Any] = {
        "compared": "attention of completions over a long prompt in one layer, seconds: by masks with repeated heads, "
        "against two calls merged by log-sum-exp",
        **{name: getattr(args, name) for name in ("prompt", "completion", "group", "heads", "size")},
    }
    ways = {"merged": packed_attention._cascade, "masked": packed_attention.masked_attention}
    for name, way in ways.items():
        memory, seconds = peak_memory(lambda way=way: run(way), device)  # type: ignore[misc]
        result |= {f"{name}_seconds": round(seconds, 3), f"{name}_peak_mib": round(memory, 1)}
    result["ratio"] = round(result["masked_seconds"] / result["merged_seconds"], 2)
    result["memory_ratio"] = round(result["masked_peak_mib"] / result["merged_peak_mib"], 2)
    result["max_gradient_difference"] = (gradients[0] - gradients[1]).abs().max().item()
    if args.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
