"""A small toy world and a tiny model with random weights, for what a toy start is taught."""

from __future__ import annotations

import pytest

from data_prep.rows import Row, read_rows
from invert_rl.sft.config import InvertSFTConfig
from invert_rl.toy.make import make_world
from invert_rl.toy.tiny_model import build_config, build_model, build_processor
from invert_rl.toy.tiny_tokenizer import build_tokenizer, toy_texts
from invert_rl.video.store import FrameStore


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[list[Row], FrameStore]:
    folder = tmp_path_factory.mktemp("world")
    rows = read_rows(make_world(folder, 0, 4, 0, 0)["train"])
    config = InvertSFTConfig(output_dir="unused", fps=2.0, min_pixels=3136, use_cpu=True, bf16=False)
    return rows, FrameStore(folder / "videos", config.frame_settings(14), in_process=True)


@pytest.fixture
def start():
    tokenizer = build_tokenizer(toy_texts())
    config = build_config(tokenizer, hidden=64, layers=2, vision_blocks=1, vision_hidden=32)
    return build_processor(tokenizer), build_model(config, 0)
