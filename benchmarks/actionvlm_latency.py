"""Latency of ActionVLM a window against vision alone and against answering in words (ActionVLM, table 6).

``python -m benchmarks.actionvlm_latency [--json]`` takes a small Qwen2 with random weights, random features and one CPU
thread. On a GPU, with the paper's sizes: ``--llm Qwen/Qwen2.5-3B-Instruct --lora-rank 128 --window 768 --device cuda``,
and ``--vision-model OpenGVLab/VideoMAEv2-Base`` for frames instead of features. All three are the same weights:

- ``vision``: F_vis into the head, the language model left out (its vision-only epochs);
- ``actionvlm``: language features added, one pass and no decoding at test, as the paper does;
- ``answering``: the same language model reads the same window and writes its answer token by token.

A training step is forward, backward and clearing of gradients. Medians of wall time after one warm-up, taken in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers.utils import logging

from invert_rl.actionvlm.build import build_model
from invert_rl.actionvlm.config import ActionVLMArguments
from invert_rl.actionvlm.model import ActionVLM
from invert_rl.actionvlm.prompt import answer_text
from invert_rl.actionvlm.vision import load_video_encoder

CLASSES = ["run", "jump", "throw"]
FEATURE_WIDTH = 256


def parse(given: list[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--llm", default="tiny", help="of the hub or a folder; default: small, with random weights")
    parser.add_argument("--vision-model", help="encoder of frames; default: random features")
    parser.add_argument("--frame-size", type=int, default=160, help="pixels; default: 160")
    parser.add_argument("--window", type=int, default=256, help="rows; the paper: 768; default: 256")
    parser.add_argument("--width", type=int, default=256, help="channels of the small language model")
    parser.add_argument("--layers", type=int, default=4, help="its layers")
    parser.add_argument("--lora-rank", type=int, default=0, help="0: all is trained")
    parser.add_argument("--answer-tokens", type=int, default=64, help="tokens of an answer; default: 64")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(given)


def build(args: argparse.Namespace) -> tuple[ActionVLM, Any]:
    """The model and its tokenizer."""
    vision = load_video_encoder(args.vision_model, args.frame_size) if args.vision_model else None
    settings = ActionVLMArguments(
        output_dir=tempfile.mkdtemp(),
        llm=args.llm,
        tiny_width=args.width,
        tiny_layers=args.layers,
        lora_rank=args.lora_rank,
        window=args.window,
        use_cpu=args.device == "cpu",
    )
    logging.set_verbosity_error()
    torch.manual_seed(0)
    model, tokenizer = build_model(settings, CLASSES, None, vision.width if vision else FEATURE_WIDTH, 0, vision)
    return model.to(args.device), tokenizer


def measure(runs: dict[str, Callable[[], Any]], repeats: int, device: str) -> dict[str, float]:
    """Median milliseconds of each run, taken in turns after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if device != "cpu":
                torch.accelerator.synchronize()
            if number:
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def main(given: list[str] | None = None) -> dict[str, Any]:
    """Measure and return what is printed."""
    args = parse(given)
    model, tokenizer = build(args)
    rows, device = args.window, args.device
    if args.vision_model:
        batch = torch.randint(0, 256, (1, rows, 3, args.frame_size, args.frame_size), dtype=torch.uint8, device=device)
    else:
        batch = torch.randn(1, rows, FEATURE_WIDTH, device=device)
    mask = torch.ones(1, rows, dtype=torch.bool, device=device)
    segments, labels = torch.tensor([[rows / 4, rows / 2]], device=device), torch.tensor([1], device=device)
    answer = [list(tokenizer(answer_text(segments, labels, CLASSES, rows), add_special_tokens=False)["input_ids"])]

    def train(vision_only: bool) -> None:
        model.train()
        model(batch, mask, [segments], [labels], 0, vision_only, None if vision_only else answer)["loss"].backward()
        model.zero_grad(set_to_none=True)

    @torch.no_grad()
    def test(vision_only: bool) -> None:
        model.eval()
        model.detector.decode(model.detect(model.features(batch, mask, vision_only=vision_only), mask))

    @torch.no_grad()
    def answering() -> None:
        model.eval()
        language.end_token = -1  # never written: every answer has all its tokens
        language.generate(model.read(batch, mask), mask, args.answer_tokens)
        language.end_token = end

    assert model.language is not None
    language, end = model.language, model.language.end_token
    trained = measure({"vision": lambda: train(True), "actionvlm": lambda: train(False)}, args.repeats, device)
    tests = {"vision": lambda: test(True), "actionvlm": lambda: test(False), "answering": answering}
    tested = measure(tests, args.repeats, device)
    found = {
        "compared": "milliseconds of a window (table 6)",
        "window": rows,
        "llm": args.llm,
        "vision_model": args.vision_model,
        "answer_tokens": args.answer_tokens,
        "device": device,
        "training_ms": {name: round(value, 2) for name, value in trained.items()},
        "evaluation_ms": {name: round(value, 2) for name, value in tested.items()},
        "ratio": round(tested["answering"] / tested["actionvlm"], 3),
        "training_over_vision": round(trained["actionvlm"] / trained["vision"], 3),
        "evaluation_over_vision": round(tested["actionvlm"] / tested["vision"], 3),
    }
    if args.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        for name in ("training_ms", "evaluation_ms"):
            sys.stdout.write(f"{name}: {', '.join(f'{key} {value:.1f}' for key, value in found[name].items())}\n")
        sys.stdout.write(f"answering takes {found['ratio']:.2f} times as long as ActionVLM at test\n")
    return found


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    main()
