"""Annotations in ActivityNet's layout, as ``invert-rl convert`` writes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import read_json


def read_database(annotations: Path) -> dict[str, Any]:
    """The ``database`` of an ActivityNet-style JSON file; raises `DataError` where there is none."""
    content = read_json(annotations)
    if not isinstance(content, dict) or not isinstance(content.get("database"), dict):
        raise DataError(f"{annotations}: expected an object with 'database', as invert-rl convert writes it")
    return content["database"]


def class_names(database: dict[str, Any]) -> list[str]:
    """Classes of all subsets in alphabetical order; their places are the class ids."""
    return sorted({entry["label"] for record in database.values() for entry in record["annotations"]})


def plain_name(name: str) -> str:
    """A class name as words: ``BaseballPitch`` and ``baseball_pitch`` are "baseball pitch"."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return re.sub(r"[_\-\s]+", " ", spaced).strip().lower()


def with_frame_rates(database: dict[str, Any], path: Path, prefix: str = "") -> dict[str, Any]:
    """A copy of an annotation database with each video's ``fps`` from ``{video: {"video_fps": …}}``, GAP's layout.

    ``prefix`` may stand before the ids of the file, as before the names of the features. Videos that the file does not
    name keep theirs. Raises `DataError` for another layout.
    """
    rates = read_json(path)
    try:
        found = {video.removeprefix(prefix): float(facts["video_fps"]) for video, facts in rates.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f'{path}: expected {{video: {{"video_fps": frames a second}}}} ({error!r})') from error
    return {video: {**record, "fps": found[video]} if video in found else record for video, record in database.items()}
