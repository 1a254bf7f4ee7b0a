"""Progress bars that appear on a terminal and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """Iterate over ``items`` with a bar on stderr if that is a terminal; ``total`` where it has no length."""
    return tqdm(items, desc=description, total=total, disable=not sys.stderr.isatty(), leave=False)
