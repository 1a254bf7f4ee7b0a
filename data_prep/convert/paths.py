"""Paths into JSON records, as ``convert jsonl --map`` has them: ``events[].query``, ``a.b``, ``spans[0][1]``.

``[]`` goes through a list. The ``[]`` of the query's path make the rows of a record, one for each element; in other
paths the same number of ``[]`` follow it, element by element, and what is left of them is collected into a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from data_prep.errors import DataError

_STEP = re.compile(r"\[(\d*)\]|([^.\[\]]+)")

Step = str | int | None
"""A key, a place in a list, or None for all of a list."""


class PathError(Exception):
    """A record is not as a path says; the text says where."""


def parse_path(text: str) -> tuple[Step, ...]:
    """The steps of a path; raises `DataError` for one that is malformed."""
    steps: list[Step] = []
    place = 0
    for found in _STEP.finditer(text):
        between = text[place : found.start()]
        if between not in ("", ".") or (between == "." and not steps):
            break
        steps.append(found[2] if found[2] is not None else int(found[1]) if found[1] else None)
        place = found.end()
    if place != len(text) or not steps:
        raise DataError(f"--map: {text!r} is no path; write keys with dots, lists as events[].query or span[0]")
    return tuple(steps)


def places_of(record: Any, path: tuple[Step, ...]) -> Iterator[tuple[tuple[int, int], ...]]:
    """For each element that ``path`` reaches through its ``[]``: the place in each list, and how long the list is.

    Raises `PathError` where a key is missing or a list is none.
    """
    if None not in path:
        yield ()
        return
    first = path.index(None)
    values = _walk(record, path[:first], path)
    for place, value in enumerate(_as_list(values, path)):
        for rest in places_of(value, path[first + 1 :]):
            yield ((place, len(values)), *rest)


def value_at(record: Any, path: tuple[Step, ...], places: tuple[tuple[int, int], ...] = ()) -> Any:
    """What ``path`` reaches in ``record`` with the ``places`` of its first ``[]``; further ones collect into a list.

    Raises `PathError` where a key is missing, a list is none, or is not as long as the one the places are from.
    """
    if None not in path:
        return _walk(record, path, path)
    first = path.index(None)
    values = _as_list(_walk(record, path[:first], path), path)
    if not places:
        return [value_at(value, path[first + 1 :]) if path[first + 1 :] else value for value in values]
    (place, length), *rest = places
    if len(values) != length:
        raise PathError(f"{_told(path)} has {len(values)} entries where the queries have {length}")
    return value_at(values[place], path[first + 1 :], tuple(rest)) if path[first + 1 :] else values[place]


def _walk(value: Any, steps: tuple[Step, ...], path: tuple[Step, ...]) -> Any:
    for step in steps:
        has_key = isinstance(step, str) and isinstance(value, dict) and step in value
        has_place = isinstance(step, int) and isinstance(value, list | tuple) and step < len(value)
        if not has_key and not has_place:
            raise PathError(f"{_told(path)}: {step!r} is not there")
        value = value[step]
    return value


def _as_list(values: Any, path: tuple[Step, ...]) -> list[Any]:
    if not isinstance(values, list | tuple):
        raise PathError(f"{_told(path)}: [] needs a list, found {type(values).__name__}")
    return list(values)


def _told(path: tuple[Step, ...]) -> str:
    text = "".join("[]" if step is None else f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")
