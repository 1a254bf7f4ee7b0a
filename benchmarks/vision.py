"""The vision tower: transformers' one attention call for each window or frame, against one for each size of them.

``python benchmarks/vision.py [--grid 30 18 26] [--json]`` runs the towers of Qwen2.5-VL (windows) and of Qwen3-VL
(frames; Qwen3.5's is the same but for deep features) with random weights, once as transformers has them with ``sdpa``
and once with `invert_rl.models.segment_attention`. Both ways take turns in one process; the fastest of ``--repeats``
passes counts, as processor time, which other load on the machine changes less: the attention of one layer by itself
(of windows, or of frames), and the tower's forward, alone and with backward.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn
from transformers import PreTrainedConfig, Qwen3VLVisionModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_window_index

from invert_rl.models import segment_attention

SHAPES: dict[str, dict[str, int]] = {
    "tiny heads": {"hidden_size": 16, "num_heads": 1, "intermediate_size": 32, "depth": 32},
    "toy": {"hidden_size": 128, "num_heads": 4, "intermediate_size": 256, "depth": 4},
    "released": {"hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "depth": 4},
}
"""Widths of a tower; ``tiny heads`` has all 32 layers, ``released`` Qwen2.5-VL-3B's width in an eighth of them."""


def build(family: str, shape: dict[str, int]) -> nn.Module:
    """A tower with random weights; every eighth of Qwen2.5-VL's layers, or the last, sees whole frames."""
    torch.manual_seed(0)
    config: PreTrainedConfig
    if family == "qwen2_5_vl":
        step = min(8, shape["depth"])
        whole = list(range(step - 1, shape["depth"], step))
        config = Qwen2_5_VLVisionConfig(**shape, out_hidden_size=64, fullatt_block_indexes=whole)
        config._attn_implementation = "sdpa"
        return Qwen2_5_VisionTransformerPretrainedModel(config)
    config = Qwen3VLVisionConfig(**shape, out_hidden_size=64, deepstack_visual_indexes=[0])
    config._attn_implementation = "sdpa"
    return Qwen3VLVisionModel(config)


def processor_seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Processor time on a CPU, wall time on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def compare(family: str, name: str, grid: list[int], repeats: int, device: torch.device) -> dict[str, Any]:
    """Both ways on one tower: seconds, ratios, and the largest difference of a feature."""
    towers = {way: build(family, SHAPES[name]).to(device) for way in ("stock", "batched")}  # of equal weights
    segment_attention.use_segments(towers["batched"])
    config: Any = towers["stock"].config
    size = 3 * config.temporal_patch_size * config.patch_size**2
    pixels, grids = torch.randn(grid[0] * grid[1] * grid[2], size, device=device), torch.tensor([grid], device=device)
    times: dict[str, list[float]] = {}
    features = {}

    def forward(way: str) -> None:
        with torch.no_grad():
            features[way] = towers[way](pixels, grid_thw=grids).pooler_output

    def both(way: str) -> None:
        towers[way].zero_grad()
        towers[way](pixels, grid_thw=grids).pooler_output.sum().backward()

    for _ in range(repeats):
        for way in towers:
            for part, run in (("forward", forward), ("forward_backward", both)):
                seconds = processor_seconds(lambda run=run, way=way: run(way), device)  # type: ignore[misc]
                times.setdefault(f"{way}_{part}_seconds", []).append(seconds)
    result: dict[str, Any] = {"family": family, "shape": name, **{key: min(values) for key, values in times.items()}}
    result["ratio"] = result["stock_forward_seconds"] / result["batched_forward_seconds"]
    backward = "forward_backward_seconds"
    result["forward_backward_ratio"] = result[f"stock_{backward}"] / result[f"batched_{backward}"]
    result = {key: round(value, 4) if isinstance(value, float) else value for key, value in result.items()}
    result["max_difference"] = (features["stock"] - features["batched"]).abs().max().item()
    return result


def compare_attention(family: str, name: str, grid: list[int], repeats: int, device: torch.device) -> dict[str, Any]:
    """One layer's attention without its projections: cut apart as transformers does it, and batched."""
    tower = build(family, SHAPES[name]).to(device)
    config: Any = tower.config
    grids = torch.tensor([grid], device=device)
    ends = sorted_ends = get_vision_cu_seqlens(grids)
    if family == "qwen2_5_vl":
        _, ends = get_vision_window_index(grids, config.spatial_merge_size, config.window_size, config.patch_size)
        sorted_ends = segment_attention._sorted_windows(config, grids)["cu_window_seqlens"]
    size = config.hidden_size // config.num_heads
    tensors = [torch.randn(int(ends[-1]), config.num_heads, size, device=device) for _ in range(3)]
    inputs = [tensor.transpose(0, 1)[None] for tensor in tensors]
    layer = tower.blocks[0].attn
    options: dict[str, Any] = {"attention_mask": None, "scaling": size**-0.5, "dropout": 0.0, "is_causal": False}

    def stock() -> torch.Tensor:
        lengths = (ends[1:] - ends[:-1]).tolist()
        parts = [torch.split(tensor, lengths, dim=2) for tensor in inputs]
        return torch.cat([sdpa_attention_forward(layer, *part, **options)[0] for part in zip(*parts, strict=True)], 1)

    def batched() -> torch.Tensor:
        query, key, value = inputs
        return segment_attention._segment_attention(layer, query, key, value, cu_seq_lens_q=sorted_ends, **options)[0]

    with torch.no_grad():
        times = [min(processor_seconds(way, device) for _ in range(4 * repeats)) for way in (stock, batched)]
    return {
        "calls": len(ends) - 1,
        "stock_attention_seconds": round(times[0], 5),
        "batched_attention_seconds": round(times[1], 5),
        "attention_ratio": round(times[0] / times[1], 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=int, nargs=3, default=[30, 18, 26], help="frame groups, rows, columns")
    parser.add_argument("--shapes", nargs="+", default=["tiny heads"], choices=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(args.device)
    rows = [
        {
            **compare(family, shape, args.grid, args.repeats, device),
            **compare_attention(family, shape, args.grid, args.repeats, device),
        }
        for family in ("qwen2_5_vl", "qwen3_vl")
        for shape in args.shapes
    ]
    result = {
        "compared": "attention of a layer of the vision tower, seconds: one call for each window or frame (stock), "
        "against one for each size of them (batched); tower_ratio: the whole tower's forward",
        "grid": args.grid,
        "device": args.device,
        "ratio": rows[0]["attention_ratio"],
        "tower_ratio": rows[0]["ratio"],
        "towers": rows,
    }
    if args.json:
        print(json.dumps(result))
        return
    for row in rows:
        print(" | ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
