"""Annotations in ActivityNet's layout, as ``invert-rl convert`` writes them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import read_json


def read_database(annotations: Path) -> dict[str, Any]:
    """The ``database`` of an ActivityNet-style JSON file.

    Raises `DataError` where there is none, and with the video's name for a record without a duration above 0 s or
    whose annotations have no label or no segment of two finite times.
    """
    content = read_json(annotations)
    if not isinstance(content, dict) or not isinstance(content.get("database"), dict):
        raise DataError(f"{annotations}: expected an object with 'database', as invert-rl convert writes it")
    for video, record in content["database"].items():
        why = _wrong(record)
        if why:
            raise DataError(f"{annotations}: video {video!r}: {why}; write it as invert-rl convert does")
    return content["database"]


def _wrong(record: Any) -> str:
    """What is wrong with a video's record; "" for nothing."""
    if not isinstance(record, dict):
        return f"expected an object, found {record!r}"
    if not _number(record.get("duration")) or record["duration"] <= 0:
        return f"the duration must be seconds above 0, found {record.get('duration')!r}"
    entries = record.get("annotations")
    if not isinstance(entries, list):
        return f"'annotations' must be a list, found {entries!r}"
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
            return f"an annotation needs a label, found {entry!r}"
        times = entry.get("segment")
        if not isinstance(times, list) or len(times) != 2 or not all(map(_number, times)):
            return f"a segment must be two times in seconds, found {times!r}"
    return ""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
