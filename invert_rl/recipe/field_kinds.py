"""A setting of a YAML as its field wants it: a whole number for a seed, a list for tasks, or an error that says so."""

from __future__ import annotations

import datetime
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a mapping",
}
SCALARS = (int, float, datetime.date)
WORDS = {"yes": True, "true": True, "t": True, "y": True, "1": True}
WORDS |= {"no": False, "false": False, "f": False, "n": False, "0": False}
"""What a command line takes for true and false."""
MAPPED = ("rewards",)
"""Lists of words on a command line that a YAML may give as a mapping."""


class FieldKinds:
    """What kinds of values the fields of some dataclasses take, by their names."""

    def __init__(self, classes: Iterable[type]) -> None:
        self._kinds: dict[str, tuple[Any, ...]] = {}
        for one in classes:
            hints = get_type_hints(one)
            for item in fields(one):
                kinds = _parts(hints[item.name])
                if item.default is None or item.default is MISSING:
                    kinds = (*kinds, type(None))
                self._kinds[item.name] = (*kinds, dict) if item.name in MAPPED else kinds

    def fitting(self, name: str, value: Any) -> Any:
        """``value`` as the field of that name takes it: 4.0 is a whole number, one name a list of it, ``no`` a text.

        Raises `ValueError` for what does not fit.
        """
        kinds = self._kinds[name]
        found = _as(value, kinds)
        if found is MISSING:
            wanted = dict.fromkeys(NAMES[_base(kind)] for kind in kinds if _base(kind) in NAMES)
            raise ValueError(f"{name} must be {' or '.join(wanted)}, found {value!r}")
        return found


def _parts(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(part for one in get_args(hint) for part in _parts(one))
    return (hint,)


def _base(kind: Any) -> Any:
    """The plain type behind a hint: `list` of ``list[str]``, `str` of what is a choice of texts."""
    origin = get_origin(kind)
    if origin is Literal or (isinstance(kind, type) and issubclass(kind, Enum)):
        return str
    return origin or kind


def _as(value: Any, kinds: tuple[Any, ...]) -> Any:
    """``value`` as one of ``kinds``, or `MISSING`."""
    bases = [_base(kind) for kind in kinds]
    if Any in bases or (value is None and type(None) in bases):
        return value
    if isinstance(value, bool):
        if bool in bases:
            return value
        return {True: "yes", False: "no"}[value] if str in bases else MISSING
    if isinstance(value, SCALARS):
        found = _as_scalar(value, bases)
        if found is MISSING and list in bases:
            item = _as(value, _items(kinds))
            return item if item is MISSING else [item]
        return found
    if isinstance(value, str):
        return _as_text(value, kinds, bases)
    if isinstance(value, Mapping):
        return value if dict in bases else MISSING
    if isinstance(value, list):
        found = [_as(item, _items(kinds)) for item in value]
        return MISSING if list not in bases or any(item is MISSING for item in found) else found
    return MISSING


def _items(kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a list among ``kinds`` holds."""
    held = [argument for kind in kinds if _base(kind) is list for argument in get_args(kind)]
    return _parts(held[0]) if held else (Any,)


def _as_text(value: str, kinds: tuple[Any, ...], bases: list[Any]) -> Any:
    if str in bases or dict in bases:  # a mapping may be JSON
        return value
    if list in bases:
        item = _as(value, _items(kinds))
        return MISSING if item is MISSING else [item]
    if bool in bases:
        return WORDS.get(value.lower(), MISSING)
    for kind in (int, float):
        if kind in bases:
            try:
                return kind(value)
            except ValueError:
                continue
    return MISSING


def _as_scalar(value: int | float | datetime.date, bases: list[Any]) -> Any:
    if isinstance(value, float) and float not in bases and int in bases and value.is_integer():
        return int(value)
    if type(value) in bases or (isinstance(value, int) and float in bases):
        return value
    if bool in bases and value in (0, 1):
        return bool(value)
    if str in bases:
        return str(value)
    return MISSING
