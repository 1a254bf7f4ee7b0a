"""The embedded default of the recipes: the toy world's folder and the start checkpoint shipped with the package."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.runs import cache_folder
from invert_rl.schedule import TARGET, Draw, generator
from invert_rl.toy.answers import target_text
from invert_rl.toy.make import VERSION, make_world
from invert_rl.toy.tiny_model import save_tiny_checkpoint

START_CHECKPOINT = Path(__file__).parent / "checkpoint"
"""A tiny Qwen2.5-VL taught by ``recipes/sft_invert.py`` without arguments; README.md there says how."""

SFT_SEED, GRPO_SEED = 1, 0
"""Seeds of the two worlds: the start checkpoint never saw a clip of the one that GRPO trains and is tested on."""


@dataclass(frozen=True)
class ToyWorld:
    """Where a toy world lies."""

    videos: Path
    train: Path
    test: Path


def toy_world(seed: int, train_clips: int, test_clips: int) -> ToyWorld:
    """The toy world of that seed in the cache folder, made if it is not there; the main process makes it."""
    folder = cache_folder() / f"toy-v{VERSION}-seed{seed}-{train_clips}-{test_clips}"
    with PartialState().main_process_first():
        paths = make_world(folder, seed, train_clips, 0, test_clips, workers=os.cpu_count() or 1)
    return ToyWorld(folder / "videos", paths["train"], paths["test"])


def start_checkpoint() -> str:
    """Folder of the shipped start checkpoint; raises `DataError` if the package lacks it."""
    if not (START_CHECKPOINT / "config.json").is_file():
        raise DataError(f"{START_CHECKPOINT}: the start checkpoint is missing; make it with recipes/sft_invert.py")
    return str(START_CHECKPOINT)


def random_checkpoint(seed: int) -> str:
    """Folder of a tiny Qwen2.5-VL with random weights, in the cache folder; the main process makes it."""
    folder = cache_folder() / f"tiny-qwen2_5_vl-random-{seed}"
    with PartialState().main_process_first():
        if not (folder / "processor_config.json").is_file():
            save_tiny_checkpoint(folder, "qwen2_5_vl", seed)
    return str(folder)


def toy_target(draw: Draw, row: Row, seed: int, loosen: float, loosen_from: int) -> str:
    """The answer that SFT teaches for a draw of a toy row; its random part depends on seed and draw alone."""
    now = loosen if draw.round >= loosen_from else 0.0
    return target_text(draw.task, row, generator(seed, TARGET, draw.round, draw.slot), now)
