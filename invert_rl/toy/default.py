"""The embedded default of the recipes: the toy world's folder and the start checkpoint shipped with the package."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.cache import cache_folder
from invert_rl.schedule import TARGET, Draw, generator
from invert_rl.tasks import DEFAULT_TASKS, Preset, Task
from invert_rl.tasks.base import THINK
from invert_rl.toy.answers import target_text
from invert_rl.toy.captions import teach_captions
from invert_rl.toy.make import VERSION, make_world
from invert_rl.toy.matching import teach_matching
from invert_rl.toy.tiny_model import build_config, build_model, build_processor, save_checkpoint
from invert_rl.toy.tiny_tokenizer import build_tokenizer, toy_texts
from invert_rl.toy.tower import teach_tower
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore

logger = logging.getLogger(__name__)

START_CHECKPOINT = Path(__file__).parent / "checkpoint"
"""A tiny Qwen2.5-VL taught by ``recipes/sft_invert.py``; README.md there says how."""

EMBEDDING = 0.05
"""Standard deviation of a random start's word embeddings."""

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


def random_checkpoint(
    rows: Sequence[Row],
    videos: str,
    settings: FrameSettings,
    seed: int,
    tower_steps: int,
    caption_steps: int,
    preset: Preset,
) -> str:
    """Folder of a tiny Qwen2.5-VL made from random weights, in the cache folder; the main process makes it.

    On the clips of ``rows`` in the folder ``videos`` its vision tower has learned to see (`invert_rl.toy.tower`) and
    its language model where captions lie (`invert_rl.toy.captions`) or, where the preset has no thoughts, which frames
    a question is about (`invert_rl.toy.matching`), each for so many steps; with 0 steps nothing. Answers are worded as
    the preset does.
    """
    clips = len({row.video for row in rows})
    steps = f"{tower_steps}-{caption_steps}-{preset.sha256[:8]}"
    lesson = "captions" if preset.tasks["tvg"].layout == THINK else "matching"
    folder = cache_folder() / f"tiny-qwen2_5_vl-v{VERSION}-{seed}-{clips}-{steps}-{lesson}"
    with PartialState().main_process_first():
        if not (folder / "processor_config.json").is_file():
            tokenizer = build_tokenizer(toy_texts())
            processor, model = build_processor(tokenizer), build_model(build_config(tokenizer), seed)
            _spread(model, seed)
            store = FrameStore(videos, settings, in_process=True)
            right = teach_tower(model, processor, rows, store, tower_steps, seed) if tower_steps else 0.0
            found, task = 0.0, preset.tasks["tvg"]
            if caption_steps and lesson == "captions":
                found = teach_captions(model, processor, rows, store, caption_steps, seed, task)
            elif caption_steps:
                tasks = {name: preset.tasks[name] for name in DEFAULT_TASKS}
                found = teach_matching(model, processor, rows, store, caption_steps, seed, tasks)
            logger.info("%s: %.0f%% of frames named, %.0f%% looks right", folder.name, 100 * right, 100 * found)
            save_checkpoint(model, processor, folder, torch.float32)
    return str(folder)


def _spread(model: torch.nn.Module, seed: int) -> None:
    """Give matrices the standard deviation ``1 / sqrt(inputs)`` and not the 0.02 of the released configurations.

    That one is meant for widths of thousands: at a width of 128 a verb is then learned in three times the steps.
    """
    embedding = model.get_input_embeddings().weight
    numbers = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            spread = EMBEDDING if parameter is embedding else parameter[0].numel() ** -0.5
            torch.nn.init.normal_(parameter, 0.0, spread, generator=numbers)


def toy_target(draw: Draw, row: Row, task: Task, seed: int) -> str:
    """The completion that SFT teaches for a draw of a toy row; its random part depends on seed and draw alone."""
    return target_text(task, row, generator(seed, TARGET, draw.round, draw.slot))
