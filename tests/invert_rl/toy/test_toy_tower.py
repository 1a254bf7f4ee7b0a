"""What the tower of a toy start has learned before its tasks: to name frames and to read the time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.rows import Row, read_rows
from invert_rl.sft.config import InvertSFTConfig
from invert_rl.tasks import load_preset
from invert_rl.toy import default
from invert_rl.toy.make import make_world
from invert_rl.toy.tiny_model import build_config, build_model, build_processor
from invert_rl.toy.tiny_tokenizer import build_tokenizer, toy_texts
from invert_rl.toy.tower import NAMES, frame_labels, half_seconds, teach_tower
from invert_rl.video.store import FrameStore

EVENTS = [["walk", 0.5, 2.0], ["open", 3.25, 5.75]]
ROW = Row("r", "v.mp4", 12.0, "Someone opens the box.", ((3.25, 5.75),), meta={"events": EVENTS, "event": 1})


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[list[Row], Path]:
    folder = tmp_path_factory.mktemp("world")
    return read_rows(make_world(folder, 0, 4, 0, 0)["train"]), folder / "videos"


@pytest.fixture
def store(world) -> FrameStore:
    settings = InvertSFTConfig(output_dir="unused", fps=2.0, min_pixels=3136, use_cpu=True, bf16=False).frame_settings(
        14
    )
    return FrameStore(world[1], settings, in_process=True)


@pytest.fixture
def start():
    tokenizer = build_tokenizer(toy_texts())
    config = build_config(tokenizer, hidden=32, layers=1, vision_blocks=1, vision_hidden=32)
    return build_processor(tokenizer), build_model(config, 0)


def test_a_frame_shows_the_event_that_it_lies_in():
    shown = frame_labels(ROW, [0.0, 0.5, 1.5, 2.0, 3.0, 3.5, 5.75])
    assert [NAMES[label] for label in shown] == ["idle", "walk", "walk", "idle", "idle", "open", "idle"]


def test_the_time_of_a_pair_of_frames_is_that_of_its_first():
    assert half_seconds(np.array([0.0, 0.5, 1.0, 1.5]), 2).tolist() == [0, 2]
    assert half_seconds(np.array([0.51, 1.01, 1.49, 2.0]), 2).tolist() == [1, 3]


def test_the_tower_learns_and_nothing_else(world, store, start):
    processor, model = start
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    right = teach_tower(model, processor, world[0], store, 2, seed=0)
    assert 0.0 <= right <= 1.0
    assert torch.equal(torch.random.get_rng_state(), state)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved and all(".visual." in name for name in moved)


def test_the_tower_names_the_frames_of_clips_that_it_is_shown_again_and_again(world, store, start):
    processor, model = start
    row = world[0][0]
    shown = frame_labels(row, np.arange(0, row.duration, 0.5))
    blind = max(shown.count(label) for label in shown) / len(shown)
    assert blind < 0.4  # the most frequent name for all frames
    assert teach_tower(model, processor, [row], store, 80, seed=0) > 0.6


def test_what_is_taught_is_not_taught_again(world, store, monkeypatch, tmp_path):
    monkeypatch.setattr(default, "cache_folder", lambda: tmp_path)
    taught: list[tuple[str, int]] = []
    for lesson in ("tower", "captions", "matching"):

        def teach(*args, lesson=lesson) -> float:
            taught.append((lesson, args[4]))
            return 0.0

        monkeypatch.setattr(default, f"teach_{lesson}", teach)
    rows, videos = world
    think, free = load_preset("think"), load_preset("no_think")
    first = default.random_checkpoint(rows, str(videos), store.settings, 0, 1, 7, think)
    assert default.random_checkpoint(rows, str(videos), store.settings, 0, 1, 7, think) == first
    others = [(2, 7, think), (1, 8, think), (1, 7, free)]
    assert first not in [default.random_checkpoint(rows, str(videos), store.settings, 0, *other) for other in others]
    tower, captions = ("tower", 1), ("captions", 7)
    assert taught == [tower, captions, ("tower", 2), captions, tower, ("captions", 8), tower, ("matching", 7)]
