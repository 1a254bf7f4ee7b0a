"""What a saved model says about itself: ``invert_rl.json`` in its folder, which transformers ignores.

A model answers well only as it was trained: with its frames, its prompts, its positions. The file goes wherever the
folder goes, and commands take their defaults from it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_json

logger = logging.getLogger(__name__)

FILE = "invert_rl.json"


def describe_model(folder: Path, **content: Any) -> dict[str, Any]:
    """Write ``content`` under its names, beside the library's version, into a model's folder; returns all of it."""
    content = {"version": version("invert-rl"), **content}
    with atomic_write(folder / FILE) as out:
        json.dump(content, out, indent=1)
        out.write("\n")
    return content


def description_path(model: str, revision: str | None = None) -> Path | None:
    """The file of a folder or of a checkpoint on the hub; None where there is none, or the hub is out of reach."""
    if os.path.isdir(model):
        path = Path(model) / FILE
        return path if path.is_file() else None
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(hf_hub_download(model, FILE, revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        logger.debug("%s: no %s: %s", model, FILE, error)
        return None


def description_of(model: str, revision: str | None = None) -> dict[str, Any]:
    """What a model says of itself; empty for one without the file.

    Raises `DataError` if the file is damaged.
    """
    path = description_path(model, revision)
    if path is None:
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object, found {type(content).__name__}; delete it and say all options")
    for name, kind in (("frames", dict), ("prompt", dict), ("verbs", dict), ("trained_positions", bool)):
        if name in content and not isinstance(content[name], kind):
            raise DataError(f"{path}: {name!r} must be {'an object' if kind is dict else 'true or false'}")
    return content


def warn_if_silent(model: str, revision: str | None = None) -> None:
    """Say in a warning that a model does not tell how it was trained, so that defaults are guesses."""
    if not description_of(model, revision):
        logger.warning(
            "%s does not say how it was trained (no %s): frames, prompt and positions that are not given are the "
            "defaults; a model that was trained otherwise answers worse",
            model,
            FILE,
        )


def differences_from(model: str, own: Mapping[str, Any], revision: str | None = None) -> list[str]:
    """Where the settings ``own`` of a run differ from those that its start model was trained with, one text each.

    ``own`` has ``frames``, ``prompt`` and ``trained_positions`` as the file has them. Empty for a model without it.
    """
    known = description_of(model, revision)
    found = []
    frames = known.get("frames", {})
    for name, value in own["frames"].items():
        if name in frames and frames[name] != value:
            found.append(f"{name} {value} instead of {frames[name]}")
    prompt = known.get("prompt")
    if prompt is not None and prompt.get("content") != own["prompt"]["content"]:
        found.append(f"prompt {own['prompt']['name']} instead of {prompt.get('name')}")
    positions = known.get("trained_positions", own["trained_positions"])
    if positions != own["trained_positions"]:
        found.append(f"trained_positions {own['trained_positions']} instead of {positions}")
    return found
