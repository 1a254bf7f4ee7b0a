"""Lengths of videos from a file of their own, for sets whose annotations have none."""

from __future__ import annotations

from pathlib import Path

from data_prep.convert.charades_sta import read_lengths
from data_prep.errors import DataError
from data_prep.files import read_json
from data_prep.rows import is_seconds


def read_durations(path: Path) -> dict[str, float]:
    """Seconds by video, without folder and ending, from JSON ``{video: seconds}`` or a csv with ``id`` and ``length``.

    Raises `DataError` for another layout and for a length that is no positive number.
    """
    if path.suffix == ".csv":
        return read_lengths(path)
    lengths = read_json(path)
    if not isinstance(lengths, dict):
        raise DataError(f"{path}: expected an object {{video: seconds}}, found {type(lengths).__name__}")
    for video, seconds in lengths.items():
        if not is_seconds(seconds) or seconds <= 0:
            raise DataError(f"{path}: the length of {video!r} is {seconds!r}, not a positive number of seconds")
    return {Path(video).stem if "." in video else video: float(seconds) for video, seconds in lengths.items()}
