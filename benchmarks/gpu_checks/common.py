"""What the checks have in common: devices, random models in a true shape, and a GRPO trainer on generated videos."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from transformers import AutoModelForImageTextToText, PreTrainedModel, PrinterCallback, ProcessorMixin

from data_prep.rows import read_rows
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.grpo.trainer import InvertGRPOTrainer
from invert_rl.models.family import family_named
from invert_rl.models.segment_attention import attend_by_segments
from invert_rl.toy.make import make_world
from invert_rl.toy.tiny_tokenizer import build_tokenizer, toy_texts
from invert_rl.video.store import FrameStore

GIB = 2**30
SIDE = 476
"""Pixels of a frame's side: 17 x 17 tokens, so that the 24 frames of 12 s at 2 fps have 3,468 tokens."""


class Skip(Exception):
    """A check cannot run here; the message says why."""


class Failed(Exception):
    """A check found something wrong; the message says what."""


def device_of(rehearsal: bool) -> torch.device:
    """The CPU of a rehearsal, or the first GPU."""
    return torch.device("cpu" if rehearsal else "cuda")


@functools.cache
def tiny_processor() -> ProcessorMixin:
    """Qwen2.5-VL's processor with the toy world's tokenizer."""
    return family_named("qwen2_5_vl").tiny_processor(build_tokenizer(toy_texts()))


def random_model(rehearsal: bool, dtype: torch.dtype, large: bool = False) -> PreTrainedModel:
    """A Qwen2.5-VL with random weights: in the shape of 3B if ``large`` on a GPU, else tiny."""
    tokenizer = tiny_processor().tokenizer
    large = large and not rehearsal
    shape = {"hidden": 2048, "layers": 36, "intermediate": 11008, "vision_blocks": 32} if large else {"layers": 2}
    if large:
        shape |= {"vision_hidden": 1280, "vision_intermediate": 3420}
    config: Any = family_named("qwen2_5_vl").tiny_config(tokenizer, **shape)
    text = config.get_text_config()
    # The vocabulary is larger than the tokenizer's in the rehearsal, too: ids that it does not know are sampled.
    text.vocab_size = 151_936 if large else 1024
    if large:
        text.num_attention_heads, text.num_key_value_heads, text.head_dim = 16, 2, 128
        text.rope_parameters["mrope_section"] = [16, 24, 24]
        text.max_position_embeddings = 32_768
        config.vision_config.num_heads = 16
        config.vision_config.fullatt_block_indexes = [7, 15, 23, 31]
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with device_of(rehearsal):
            model: PreTrainedModel = AutoModelForImageTextToText.from_config(config)
    finally:
        torch.set_default_dtype(torch.float32)
    family_named("qwen2_5_vl").use_trained_positions(model)
    attend_by_segments(model)
    return model


def spread(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A reward with variance on random weights: the share of even token ids."""
    return [sum(token % 2 == 0 for token in ids) / max(1, len(ids)) for ids in completion_ids]


@contextmanager
def trainer_of(
    model: PreTrainedModel, rehearsal: bool, peft_config: PeftConfig | None = None, **settings: Any
) -> Iterator[InvertGRPOTrainer]:
    """A GRPO trainer under bf16 autocast on generated videos, TVG alone, rollouts by transformers.

    Frames have about 3,500 tokens a video where ``large_frames`` is set on a GPU.
    """
    large_frames = settings.pop("large_frames", False) and not rehearsal
    side = SIDE if large_frames else 56
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder) / "world"
        make_world(world, seed=7, n_train=2, n_validation=0, n_test=0)
        args = InvertGRPOConfig(
            **{
                "output_dir": str(Path(folder) / "run"),
                "per_device_train_batch_size": 4 if rehearsal else 8,
                "num_generations": 4 if rehearsal else 8,
                "max_completion_length": 8 if rehearsal else 128,
                "max_steps": 1,
                "learning_rate": 1e-6,
                "lr_scheduler_type": "constant",
                "min_pixels": side * side,
                "max_pixels": max(side * side, 234_000 if large_frames else 0),
                "tasks": ["tvg"],
                "beta": 0.0,
                "bf16": True,
                "use_cpu": rehearsal,
                "report_to": ["none"],
                "save_strategy": "no",
                "logging_steps": 1,
                "disable_tqdm": True,
                "seed": 3,
                **settings,
            }
        )
        trainer = InvertGRPOTrainer(
            model=model,
            rows=read_rows(world / "train.jsonl"),
            reward_funcs=[spread],
            args=args,
            processing_class=tiny_processor(),
            store=FrameStore(world / "videos", args.frame_settings(14), in_process=True),
            peft_config=peft_config,
        )
        trainer.remove_callback(PrinterCallback)
        yield trainer


def seconds(device: torch.device, run: Any) -> float:
    """Wall seconds of ``run`` with the GPU's work in it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def require(condition: bool, said: str) -> None:
    """Raise `Failed` with ``said`` unless the condition holds."""
    if not condition:
        raise Failed(said)
