"""Times as files write them, in seconds: frames, fractions, chunks, clocks, pairs in a text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.convert.grounding import numbers_of
from data_prep.convert.paths import PathError
from data_prep.rows import is_seconds

UNITS = ("seconds", "milliseconds", "frames", "fractions", "percent", "chunks")
_PAIR = re.compile(r"\s*([\d.:]+)\s*(?:-|–|to|,|~)\s*([\d.:]+)\s*")
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Times:
    """How the times of a file become seconds of the video's file."""

    units: str = "seconds"
    fps: float | None = None
    chunk_seconds: float = 5.0
    chunk_inclusive: bool = True
    from_clip: bool = False

    def seconds(self, window: Sequence[float], fps: float | None, length: float | None) -> list[float]:
        """A window in seconds; ``length`` (seconds) is that of what it is a fraction of.

        Raises `PathError` where the frame rate or the length that it takes is not known.
        """
        start, end = window
        if self.units == "chunks":
            return [start * self.chunk_seconds, (end + self.chunk_inclusive) * self.chunk_seconds]
        if self.units == "frames":
            if fps is None or fps <= 0:
                raise PathError(f"the frame rate is {fps!r}, not a positive number")
            return [round(start / fps, 6), round(end / fps, 6)]
        if self.units in ("fractions", "percent"):
            if length is None:
                raise PathError("no duration is known for the video")
            share = length if self.units == "fractions" else length / 100
            return [round(start * share, 6), round(end * share, 6)]
        factor = 0.001 if self.units == "milliseconds" else 1.0
        return [start * factor, end * factor]


def clip_of(fields: Mapping[str, Any]) -> tuple[float, float] | None:
    """The clip in seconds of the file; None where the record has none."""
    given = fields["clip"] if "clip" in fields else [fields["clip_start"], fields["clip_end"]]
    if given is None or (isinstance(given, list) and all(time is None for time in given)):
        return None
    bounds = numbers_of(given)
    if bounds is None or len(bounds) != 2:
        raise PathError(f"clip {given!r} is not [start, end]")
    return bounds[0], bounds[1]


def windows_of(fields: Mapping[str, Any]) -> list[Any] | None:
    """The windows as pairs of numbers where they can be read so, None where there are none."""
    if "start" in fields:
        start, end = fields["start"], fields["end"]
        if isinstance(start, list) and isinstance(end, list) and len(start) == len(end):
            return [[_time(a), _time(b)] for a, b in zip(start, end, strict=True)]
        return None if start is None and end is None else [[_time(start), _time(end)]]
    given = fields.get("windows")
    if isinstance(given, str):
        given = _pairs(given)
    if given is None:
        return None
    if isinstance(given, Mapping):
        given = [given]
    if not isinstance(given, list | tuple):
        return [given]
    if len(given) == 2 and all(number_of(_time(value)) is not None for value in given):
        return [[_time(value) for value in given]]
    windows: list[Any] = []
    for value in given:
        if isinstance(value, Mapping) and {"start", "end"} <= value.keys():
            windows.append([_time(value["start"]), _time(value["end"])])
        elif isinstance(value, str):
            windows += _pairs(value)
        elif isinstance(value, list | tuple) and value and all(isinstance(inner, list | tuple) for inner in value):
            windows += [[_time(time) for time in inner] for inner in value]
        elif isinstance(value, list | tuple):
            windows.append([_time(time) for time in value])
        else:
            windows.append(value)
    return windows


def _pairs(text: str) -> list[Any]:
    """All ``a - b`` of a text, or the JSON list that it is; the text itself where it is neither."""
    if text.strip().startswith("["):
        try:
            listed = json.loads(text)
        except ValueError:
            return [text]
        return windows_of({"windows": listed}) or []
    parts = [part for part in re.split(r"[;|]", text) if part.strip()]
    found = [_PAIR.fullmatch(part) for part in parts]
    return [[_time(match[1]), _time(match[2])] if match else text for match in found]


def _time(value: Any) -> Any:
    """A number of a text, of a clock (``1:02:03.5``) in seconds; anything else as it is."""
    if isinstance(value, str):
        clock = _CLOCK.fullmatch(value.strip())
        if clock:
            return 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3])
        number = number_of(value)
        return value if number is None else number
    return value


def number_of(value: Any) -> float | None:
    """A finite number, also of a text; None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if is_seconds(value) else None
