"""Progress: a bar on a terminal, and now and then a line where there is none, as in the log of a job."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

SECONDS = 30.0
"""Between two lines; what takes less says nothing."""


def progress(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """Iterate over ``items`` with a bar or lines on stderr; ``total`` where it has no length."""
    if sys.stderr.isatty():
        return tqdm(items, desc=description, total=total, leave=False)
    if total is None and isinstance(items, Sized):
        total = len(items)
    return _with_lines(items, description, total)


def _with_lines(items: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    started = told = time.monotonic()
    for number, item in enumerate(items):
        now = time.monotonic()
        if now - told >= SECONDS:
            told = now
            share = f" of {total} ({100 * number / total:.0f} %)" if total else ""
            sys.stderr.write(f"{description}: {number}{share} after {now - started:.0f} s\n")
            sys.stderr.flush()
        yield item
