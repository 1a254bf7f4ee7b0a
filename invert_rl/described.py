"""What a saved model says about itself: ``invert_rl.json`` in its folder, which transformers ignores.

A model answers well only as it was trained: with its frames, its prompts, its positions. The file goes wherever the
folder goes, and commands take their defaults from it.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_json

FILE = "invert_rl.json"


def describe_model(folder: Path, **content: Any) -> None:
    """Write the file into a model's folder; ``content`` is kept under its names beside the library's version."""
    with atomic_write(folder / FILE) as out:
        json.dump({"version": version("invert-rl"), **content}, out, indent=1)
        out.write("\n")


def description_of(model: str) -> dict[str, Any]:
    """What the folder ``model`` says; empty for a hub id and for a folder without the file.

    Raises `DataError` if the file is damaged.
    """
    path = Path(model) / FILE
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object, found {type(content).__name__}; delete it and say all options")
    return content
