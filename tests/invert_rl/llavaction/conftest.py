"""Tiny checkpoints of the three families, and clips for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from invert_rl.llavaction.encode import ClipEncoder
from invert_rl.llavaction.model import load_action_model, load_action_processor
from invert_rl.video.clip import Clip
from tests.invert_rl.llavaction.tiny_llava import save_tiny_llava

CLASSES = (6, 7, 20)


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Checkpoint folder of a tiny random LLaVA-OneVision."""
    return str(save_tiny_llava(tmp_path_factory.mktemp("tiny_llava")))


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl", "llava_onevision"])
def checkpoint(request: pytest.FixtureRequest) -> str:
    """Each of the three tiny random checkpoints."""
    names = {"qwen2_5_vl": "tiny_qwen2_5", "qwen3_vl": "tiny_qwen3", "llava_onevision": "tiny_llava"}
    return request.getfixturevalue(names[request.param])


def make_clip(seed: int = 0, frames: int = 4, size: int = 224) -> Clip:
    """Random frames, two per second, of a size that all three families take."""
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(0, 256, (frames, 3, size, size), dtype=np.uint8))
    return Clip(pixels, np.arange(frames) / 2, 0.0, frames / 2, f"clip{seed}.mp4")


@pytest.fixture
def load() -> Callable[..., tuple]:
    """``load(checkpoint)``: model in evaluation mode and its encoder."""

    def build(name: str, **settings):
        processor = load_action_processor(name)
        model = load_action_model(name, processor, CLASSES, seed=4).eval()
        return model, ClipEncoder(processor, model.config, **settings)

    return build
