"""The YAML of a mixture: its sources, and the test sets that it must not hold."""

from __future__ import annotations

import os
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from data_prep.errors import DataError
from invert_rl.strict_yaml import read_yaml
from invert_rl.tasks.base import WINDOW_MODES, WindowMode

CONTAMINATION = ("refuse", "drop")
"""What happens to rows whose video is in a test set: an error, or they are left out and listed."""
Part = TypeVar("Part")


@dataclass(frozen=True)
class Source:
    """Rows of one file; paths are relative to the YAML."""

    data: str
    """JSONL or parquet file of rows."""
    name: str = ""
    """Name in the manifest and in ``meta.source_name``; default: the file's name without ending."""
    folder: str = ""
    """Where its videos lie below the mixture's ``video_root``; stands before each video's name."""
    split: str | None = None
    """Only rows of this split."""
    windows: WindowMode = "split"
    """Queries with several windows: one row for each, or one row of which any or all moments are asked."""
    prompt: str | None = None
    """Preset that words its rows, where it is not that of the run."""
    weight: float = 1.0
    """How often each row is taken; of a fraction, rows are drawn by the seed."""
    cap: int | None = None
    """At most this many rows before weighting, drawn by the seed."""


@dataclass(frozen=True)
class TestSet:
    """Rows whose videos must not be trained on."""

    data: str
    folder: str = ""


@dataclass(frozen=True)
class Mixture:
    """A whole mixture; ``path`` is its YAML."""

    path: Path
    sources: list[Source]
    test_sets: list[TestSet] = field(default_factory=list)
    video_root: str | None = None
    """Folder of all videos; without it files are compared by name alone."""
    seed: int = 42
    contamination: str = CONTAMINATION[0]
    """One of `CONTAMINATION`."""

    def located(self, name: str) -> Path:
        """A path of the YAML, which is relative to it."""
        return Path(os.path.normpath(self.path.parent / name))


def read_mixture(path: Path) -> Mixture:
    """The mixture of a YAML file; raises `DataError` naming the file and the key that is wrong."""
    content = _mapping(read_yaml(path), str(path))
    for name, kind in (("sources", Source), ("test_sets", TestSet)):
        listed = content.get(name, [])
        if not isinstance(listed, list) or (name == "sources" and not listed):
            raise DataError(f"{path}: {name} must be a list of entries with at least data: FILE")
        content[name] = [_part(kind, entry, f"{path}: {name}[{place}]") for place, entry in enumerate(listed)]
    mixture = _part(Mixture, {**content, "path": path}, str(path))
    if mixture.contamination not in CONTAMINATION:
        raise DataError(f"{path}: contamination must be refuse or drop, found {mixture.contamination!r}")
    if isinstance(mixture.seed, bool) or not isinstance(mixture.seed, int):
        raise DataError(f"{path}: seed must be a whole number, found {mixture.seed!r}")
    for place, source in enumerate(mixture.sources):
        _check_source(source, f"{path}: sources[{place}]")
    names = [source_name(source) for source in mixture.sources]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{path}: two sources are called {twice[0]!r}; give them a name each")
    modes = {source.windows for source in mixture.sources} - {"split"}
    if len(modes) > 1:
        raise DataError(f"{path}: a run asks for any or for all windows, not both: {', '.join(sorted(modes))}")
    return mixture


def source_name(source: Source) -> str:
    """Its name, or its file's without ending."""
    return source.name or Path(source.data).name.split(".")[0]


def _check_source(source: Source, where: str) -> None:
    if source.windows not in WINDOW_MODES:
        raise DataError(f"{where}: windows must be one of {', '.join(WINDOW_MODES)}, found {source.windows!r}")
    if isinstance(source.weight, bool) or not isinstance(source.weight, int | float) or not 0 < source.weight <= 100:
        raise DataError(f"{where}: weight must be a number above 0 and at most 100, found {source.weight!r}")
    if source.cap is not None and (isinstance(source.cap, bool) or not isinstance(source.cap, int) or source.cap < 1):
        raise DataError(f"{where}: cap must be a positive whole number, found {source.cap!r}")


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a mapping, found {type(value).__name__}")
    return dict(value)


def _part(kind: type[Part], value: Any, where: str) -> Part:
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    given = _mapping(value, where)
    for name, content in given.items():
        if name not in known:
            raise DataError(f"{where}: {name!r} is unknown; there are {', '.join(n for n in known if n != 'path')}")
        if str(known[name].type).startswith("str") and not isinstance(content, str | None):
            raise DataError(f"{where}: {name} must be text, found {content!r}")
    for name, one in known.items():
        if one.default is MISSING and one.default_factory is MISSING and given.get(name) is None:
            raise DataError(f"{where}: {name} is missing")
    return kind(**given)
