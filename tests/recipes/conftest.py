"""Recipes run in this process, with a cache folder of their own."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from invert_rl.toy.tiny_model import save_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cache folder shared by the tests, so that each small toy world is made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Checkpoint folder of a tiny random Qwen2.5-VL."""
    folder = tmp_path_factory.mktemp("tiny")
    return str(save_tiny_checkpoint(folder, "qwen2_5_vl", seed=1, hidden=64, layers=2, vision_blocks=2))


@pytest.fixture
def run_recipe(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """``run_recipe("grpo_invert.py", "--option", "value")`` in an empty working directory."""

    def run(name: str, *arguments: str) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(ROOT / "recipes" / name), run_name="__main__")

    return run
