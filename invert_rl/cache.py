"""The folder for generated data."""

from __future__ import annotations

import os
from pathlib import Path

from data_prep.errors import DataError


def cache_folder() -> Path:
    """Where generated data is kept between runs: ``$XDG_CACHE_HOME/invert-rl``, or ``~/.cache/invert-rl``.

    Raises `DataError` where there is no home folder.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "invert-rl"
    except RuntimeError as error:
        raise DataError("no home folder: set XDG_CACHE_HOME to a folder for what is generated") from error
