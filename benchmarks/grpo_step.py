"""One update's forward and backward: G copies of prompt and video against each prompt once.

``python benchmarks/grpo_step.py [--family qwen3_5 | --all] [--prompt 810 --completion 64 --group 8] [--json]``
compares, on a model with random weights, the scoring forward as TRL does it (every row has its whole prompt and its
video) with that of `invert_rl.grpo.shared_prompt`. Each side is a process of its own. Its first forward and backward
gives the peak memory, above what the loaded model and its inputs take; the fastest of the others gives the time. On a
CPU the two processes take turns, so that other load hits both; ``cpu_ratio`` is that of processor times, which other
load leaves alone. The log-probabilities of both are compared too. Both sides have the vision tower in few calls.

On one GPU, with the shape of Qwen2.5-VL-3B and 3,584 video tokens (without gradient checkpointing the stock side needs
far more than 80 GB):

    python benchmarks/grpo_step.py --device cuda --model 3b --prompt 3630 --completion 128 --group 8 \\
        --gradient-checkpointing --json
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from invert_rl.encoding import EncodedPrompt, video_inputs
from invert_rl.families import FAMILIES
from invert_rl.grpo.scoring import token_types
from invert_rl.grpo.shared_prompt import SharedPrompts, add_shared_prompts
from invert_rl.models import family_named
from invert_rl.models.segment_attention import attend_by_segments

SIDES = ("stock", "shared")
IMAGE_TOKEN, VIDEO_TOKEN = 1, 2
PATCH = (16, 14)
"""Side of a patch in pixels: of the later families, and of Qwen2.5-VL."""
PER_FRAME = 64
"""Video tokens of one frame group: 8 x 8, frames of 224 pixels."""
GRID = [(200, 32, 4), (200, 256, 16), (810, 32, 16), (810, 256, 4), (2000, 32, 4), (2000, 256, 16)]
"""Prompt tokens, completion tokens, completions of a group."""
STOCK_MIB_PER_TOKEN = 0.8
"""What the small model's stock side takes on a CPU, measured; larger shapes than memory allows are left out."""
MIB = 2**20
WINDOW = 8.0
"""Seconds in which a side begins timed passes before it is the other's turn."""

MODELS: dict[str, dict[str, Any]] = {
    "small": {  # about 14 million parameters, with about the 3B model's shares of vision tower and vocabulary
        "text": {
            "hidden_size": 256,
            "num_hidden_layers": 12,
            "intermediate_size": 688,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 8192,
        },
        "vision": {"depth": 5, "hidden_size": 192, "intermediate_size": 512, "num_heads": 4},
        "fullatt": [2, 4],
        "linear": {"heads": 4, "size": 64},
        "experts": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256},
    },
    "3b": {  # Qwen2.5-VL-3B, or another family in its size
        "text": {
            "hidden_size": 2048,
            "num_hidden_layers": 36,
            "intermediate_size": 11008,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
        "vision": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16},
        "fullatt": [7, 15, 23, 31],
        "linear": {"heads": 16, "size": 128},
        "experts": {"num_experts": 64, "num_experts_per_tok": 4, "moe_intermediate_size": 1408},
    },
}

MODELS["shallow"] = {  # a third of the layers: a pass takes seconds
    **MODELS["small"],
    "text": {**MODELS["small"]["text"], "num_hidden_layers": 4, "vocab_size": 1024},
    "vision": {**MODELS["small"]["vision"], "depth": 2},
    "fullatt": [1],
}


def build_config(family: str, name: str) -> Any:
    """Configuration of a family in the named shape."""
    shape = MODELS[name]
    text = dict(shape["text"])
    head = text["hidden_size"] // text["num_attention_heads"]
    vision = {
        **shape["vision"],
        "out_hidden_size": text["hidden_size"],
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "patch_size": PATCH[family == "qwen2_5_vl"],
    }
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1_000_000.0}
    rope["mrope_section"] = [head // 8, head * 3 // 16, head * 3 // 16]
    if family == "qwen2_5_vl":
        vision |= {"tokens_per_second": 2, "window_size": 112, "fullatt_block_indexes": shape["fullatt"]}
    else:
        text["head_dim"] = head
        rope["mrope_interleaved"] = True
    if family.startswith("qwen3_vl"):
        vision["deepstack_visual_indexes"] = [0, 1]
    if family.startswith("qwen3_5"):
        rope |= {"partial_rotary_factor": 0.25, "mrope_section": [head // 32, head // 32, head // 16]}
        heads, size = shape["linear"]["heads"], shape["linear"]["size"]
        text |= {"linear_num_key_heads": heads // 2, "linear_num_value_heads": heads}
        text |= {"linear_key_head_dim": size, "linear_value_head_dim": size}
    if family.endswith("moe"):
        text |= shape["experts"]
        if family.startswith("qwen3_5"):
            text["shared_expert_intermediate_size"] = text["moe_intermediate_size"]
            del text["intermediate_size"]
    return AutoConfig.for_model(
        family,
        text_config={
            **text,
            "max_position_embeddings": 131_072,
            "rope_parameters": rope,
            "tie_word_embeddings": True,
        },
        vision_config=vision,
        image_token_id=IMAGE_TOKEN,
        video_token_id=VIDEO_TOKEN,
        tie_word_embeddings=True,
    )


def build_model(family: str, name: str, device: torch.device) -> PreTrainedModel:
    """A model of the named shape with random weights, ready for scoring; bf16 on a GPU, fp32 on a CPU."""
    config = build_config(family, name)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if device.type == "cuda" else torch.float32)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    torch.set_default_dtype(torch.float32)
    family_named(family).use_trained_positions(model)
    attend_by_segments(model)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))  # as GRPOTrainer has it
    add_shared_prompts(model)
    return model.train()


def build_inputs(model: PreTrainedModel, side: str, shape: dict[str, int], device: torch.device) -> dict[str, Any]:
    """One group: a random video and text, ``group`` random completions, as one side's forward takes them."""
    generator = torch.Generator().manual_seed(1)
    vocabulary = model.config.get_text_config().vocab_size
    prompt_length, completion, group = shape["prompt"], shape["completion"], shape["group"]
    frames = max(1, (prompt_length - 32) // PER_FRAME)
    text = torch.randint(10, vocabulary, (prompt_length - frames * PER_FRAME,), generator=generator).tolist()
    grid = torch.tensor([[frames, 16, 16]])
    windows = model.config.model_type == "qwen2_5_vl"
    pieces = [text[:8], [VIDEO_TOKEN] * (frames * PER_FRAME), text[8:]]
    if not windows:  # a run of placeholders for each time step, with text between
        step = max(1, len(text) // (frames + 1))
        pieces = [text[: len(text) - frames * step]]
        for frame in range(frames):
            start = len(text) - (frames - frame) * step
            pieces += [[VIDEO_TOKEN] * PER_FRAME, text[start : start + step]]
    size = 3 * 2 * PATCH[windows] ** 2
    prompt = EncodedPrompt(
        input_ids=[token for piece in pieces for token in piece],
        mm_token_type_ids=[2 if token == VIDEO_TOKEN else 0 for piece in pieces for token in piece],
        pixel_values_videos=torch.randn(int(grid.prod()), size, generator=generator),
        video_grid_thw=grid,
        second_per_grid_ts=torch.tensor([1.0]) if windows else None,
    )
    completions = torch.randint(10, vocabulary, (group, completion), generator=generator)
    input_ids = torch.cat([torch.tensor([prompt.input_ids] * group), completions], dim=1)
    labels = input_ids.clone()
    labels[:, :prompt_length] = -100
    inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}
    prompts = [prompt] * group
    if side == "stock":
        inputs |= video_inputs(prompts)
        inputs["mm_token_type_ids"] = token_types(prompts, input_ids.shape[1], completion)
    else:
        inputs["shared_prompts"] = SharedPrompts(prompts, completion)
    inputs["fused_lm_head"] = True
    return {name: value.to(device) if torch.is_tensor(value) else value for name, value in inputs.items()}


def forward_backward(model: PreTrainedModel, inputs: dict[str, Any], completion: int) -> torch.Tensor:
    """Log-probabilities of the completions, ``(group, completion)``; gradients are left in the model."""
    model.zero_grad()
    scores = model(**inputs).log_probs[:, -completion:]
    (scores * torch.linspace(-1, 1, scores.numel(), device=scores.device).view_as(scores)).sum().backward()
    return scores.detach()


def peak_memory(run: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """MiB that ``run`` takes at its peak above what is in use before it, and what it returns."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = run()
        return (torch.cuda.max_memory_allocated() - before) / MIB, result
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    result = run()
    return (_status("VmHWM") - before) / MIB, result


def _status(name: str) -> int:
    """A value of /proc/self/status in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def fits(shape: dict[str, int]) -> bool:
    """Whether the small model's stock side has room on this machine."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    tokens = shape["group"] * (shape["prompt"] + shape["completion"])
    return tokens * STOCK_MIB_PER_TOKEN * MIB < int(line.split()[1]) * 1024


def count_flops(run: Callable[[], Any]) -> int:
    """Floating-point operations of ``run``; attention kernels count the full square, causal or not.

    With counts of our own: those of torch up to 2.11 refuse query heads that share their keys.
    """

    def forward(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
        *rows, queries, size = query
        return 2 * math.prod(rows) * queries * key[-2] * (size + value[-1])

    def backward(_gradient: Any, query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
        return forward(query, key, value) * 5 // 2

    counts: dict[Any, Callable[..., int]] = {}
    for kernel in ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention"):
        counts[getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}")] = forward
        counts[getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}_backward")] = backward
    with FlopCounterMode(display=False, custom_mapping=counts) as counter:
        run()
    return counter.get_total_flops()


def work(options: dict[str, Any]) -> None:
    """A side's process: answers each word on standard input with a line of JSON."""
    torch.set_num_threads(1)
    device = torch.device(options["device"])
    model = build_model(options["family"], options["model"], device)
    if options["checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    inputs = build_inputs(model, options["side"], options["shape"], device)
    completion = options["shape"]["completion"]

    def run() -> list[float]:
        return forward_backward(model, inputs, completion).float().flatten().tolist()  # waits for a GPU

    actions: dict[str, Callable[[], Any]] = {
        "parameters": lambda: sum(parameter.numel() for parameter in model.parameters()),
        "memory": lambda: peak_memory(run, device),
        "seconds": lambda: seconds(run),
        "flops": lambda: count_flops(run),
    }
    for word in map(str.strip, sys.stdin):
        try:
            answer = actions[word]()
        except torch.OutOfMemoryError:
            answer = None
        print(json.dumps(answer), flush=True)


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """Wall time of one pass, and this process's processor time, which other load on the machine does not change.

    The fastest of as many passes as begin within `WINDOW`, so that a disturbance does not weigh more on the side whose
    passes are short.
    """
    end = time.perf_counter() + WINDOW
    walls: list[float] = []
    processors: list[float] = []
    while not walls or time.perf_counter() < end:
        start, processor = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - start)
        processors.append(time.process_time() - processor)
    return min(walls), min(processors)


class Side:
    """One side in a process of its own."""

    def __init__(self, options: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "benchmarks.grpo_step", "--worker", json.dumps(options)]
        root = Path(__file__).resolve().parents[1]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, cwd=root
        )

    def ask(self, word: str) -> Any:
        """Let the process do one thing; raises `RuntimeError` if it died."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(f"a side's process ended with code {code} at {word!r}:\n{self.errors.read()[-4000:]}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()


def compare(options: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Both sides on one shape: times, ratio, memory, operations and how far the log-probabilities are apart."""
    words = ["parameters", "memory", *["seconds"] * repeats, *["flops"] * options["flops"]]
    answers: dict[str, list[Any]] = {side: [] for side in SIDES}
    if options["device"] == "cuda":  # one after the other, each with the whole GPU
        for side in SIDES:
            process = Side({**options, "side": side})
            answers[side] = [process.ask(word) for word in words]
            process.close()
    else:
        processes = {side: Side({**options, "side": side}) for side in SIDES}
        for word in words:
            for side, process in processes.items():
                answers[side].append(process.ask(word))
        for process in processes.values():
            process.close()
    result: dict[str, Any] = {**options["shape"], "parameters": answers["shared"][0]}
    scores = []
    for side in SIDES:
        _, memory, *rest = answers[side]
        times, flops = rest[:repeats], rest[repeats:]
        if None in (memory, *rest):
            raise RuntimeError(f"{side}: out of GPU memory; try --gradient-checkpointing, or a smaller group")
        result[f"{side}_seconds"] = min(wall for wall, _ in times)
        result[f"{side}_cpu_seconds"] = min(processor for _, processor in times)
        result[f"{side}_peak_mib"], its_scores = memory
        for count in flops:
            result[f"{side}_gflop"] = count / 1e9
        scores.append(its_scores)
    for name, ratio in (
        ("seconds", "ratio"),
        ("cpu_seconds", "cpu_ratio"),
        ("peak_mib", "memory_ratio"),
        ("gflop", "flop_ratio"),
    ):
        if f"stock_{name}" in result:
            result[ratio] = result[f"stock_{name}"] / result[f"shared_{name}"]
    result = {name: round(value, 3) for name, value in result.items()}
    result["max_logp_difference"] = max(abs(a - b) for a, b in zip(*scores, strict=True))
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=list(FAMILIES), default="qwen2_5_vl", help="model family")
    parser.add_argument("--all", action="store_true", help="all families, one after the other")
    parser.add_argument("--prompt", type=int, default=810, help="prompt tokens, video included")
    parser.add_argument("--completion", type=int, default=64, help="tokens of a completion")
    parser.add_argument("--group", type=int, default=8, help="completions of a prompt")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", choices=sorted(MODELS), default="small", help="shape of the random model")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="on both sides")
    parser.add_argument(
        "--repeats", type=int, default=2, help="turns of timed forward and backward passes; the fastest pass counts"
    )
    parser.add_argument("--no-flops", action="store_true", help="leave out counting operations, one more pass a side")
    parser.add_argument("--grid", action="store_true", help="also a grid of shapes, one timed pass each")
    parser.add_argument("--quick", action="store_true", help="prompt 200, completion 32, group 4, one timed pass")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(json.loads(args.worker))
        return
    shape = {"prompt": args.prompt, "completion": args.completion, "group": args.group}
    if args.quick:
        shape, args.repeats = {"prompt": 200, "completion": 32, "group": 4}, 1
    options = {
        "family": args.family,
        "device": args.device,
        "model": args.model,
        "checkpointing": args.gradient_checkpointing,
        "flops": not args.no_flops,
    }
    result: dict[str, Any] = {
        "compared": "forward and backward of one group, seconds: prompt and video with every completion, as stock "
        "scoring has them, against each prompt once",
        **options,
        **compare({**options, "shape": shape}, args.repeats),
    }
    if args.all:
        others = [name for name in FAMILIES if name != args.family]
        result["families"] = {
            name: compare({**options, "family": name, "shape": shape}, args.repeats) for name in others
        }
    if args.grid:
        points = [dict(zip(shape, point, strict=True)) for point in GRID]
        result["grid"] = [
            compare({**options, "shape": point}, repeats=1)
            if args.device == "cuda" or fits(point)
            else {**point, "left_out": "the stock side needs more memory than is free"}
            for point in points
        ]
    if args.json:
        print(json.dumps(result))
        return
    grid = result.pop("grid", []) + [{"family": name, **row} for name, row in result.pop("families", {}).items()]
    for key, value in result.items():
        print(f"{key}: {value}")
    for row in grid:
        print(" | ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
