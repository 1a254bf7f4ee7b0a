"""Folders of released models that hold nothing but their config.json."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parent / "configs"


@pytest.fixture
def released(tmp_path):
    """The folder of a released model that holds nothing but its config.json."""

    def make(name: str) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        shutil.copy(CONFIGS / f"{name}.json", folder / "config.json")
        return str(folder)

    return make
