"""A small toy world and tiny random checkpoints, made once per test session."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.rows import Row, read_rows
from invert_rl.families import FAMILIES
from invert_rl.models.tiny import save_tiny_checkpoint
from invert_rl.toy.make import make_world

SMALL_MODEL = {"hidden": 64, "layers": 2, "vision_blocks": 2}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a toy world with a few clips."""
    folder = tmp_path_factory.mktemp("world")
    make_world(folder, seed=7, n_train=8, n_validation=1, n_test=2)
    return folder


@pytest.fixture(scope="session")
def rows(world: Path) -> list[Row]:
    """Training rows of the small toy world."""
    return read_rows(world / "train.jsonl")


@pytest.fixture(scope="session")
def tiny_qwen2_5(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Checkpoint folder of a tiny random Qwen2.5-VL."""
    return str(save_tiny_checkpoint(tmp_path_factory.mktemp("tiny_qwen2_5"), "qwen2_5_vl", seed=1, **SMALL_MODEL))


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Checkpoint folder of a tiny random Qwen3-VL."""
    return str(save_tiny_checkpoint(tmp_path_factory.mktemp("tiny_qwen3"), "qwen3_vl", seed=1, **SMALL_MODEL))


@pytest.fixture(scope="session", params=FAMILIES)
def family_checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random checkpoint of each model family."""
    return str(save_tiny_checkpoint(tmp_path_factory.mktemp(request.param), request.param, seed=1, **SMALL_MODEL))


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])
def tiny_checkpoint(request: pytest.FixtureRequest) -> str:
    """Each of the two tiny random checkpoints."""
    return request.getfixturevalue("tiny_qwen2_5" if request.param == "qwen2_5_vl" else "tiny_qwen3")
