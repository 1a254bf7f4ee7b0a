"""The common row: one query with its windows in one video, one JSON object per line.

``{"id", "dataset", "split", "video", "duration", "query", "windows": [[s, e], …], "meta": {}}`` with
times in seconds of the video's file and ``0 <= s < e <= duration``. A row may have ``"clip": [s, e]``, the part of
the file that is "the video": windows then lie inside it, and a model sees it alone and answers in its time, which
starts at 0 where the clip does. `Row.to_clip` and `Row.from_clip` convert between the two.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.errors import DataError

Window = tuple[float, float]

MAX_SECONDS = 1e9
"""Larger numbers, 30 years and more, are damage."""

NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|<\|\w+\|>")
"""Control characters, and the marks by which chat templates tell roles and videos apart."""


@dataclass(frozen=True)
class Row:
    """One annotated query.

    ``windows`` are ``(start, end)`` in seconds of the whole file, ``duration`` the file's length in seconds,
    ``clip`` the part ``(start, end)`` of it that is "the video" (None: all of it) and ``video`` a path relative
    to the video folder. ``meta`` carries anything else, such as ``verbs`` and ``masked_query`` written by
    ``invert-rl convert --annotate verbs``.
    """

    id: str
    video: str
    duration: float
    query: str
    windows: tuple[Window, ...]
    dataset: str = ""
    split: str = ""
    meta: dict[str, Any] = field(default_factory=dict, hash=False)
    clip: Window | None = None

    @property
    def shown(self) -> Window:
        """The part of the file that is "the video", in seconds of the file: its clip, or all of it."""
        return self.clip or (0.0, self.duration)

    @property
    def shown_seconds(self) -> float:
        """Length in seconds of the part that is shown: ``duration`` for a row without a clip."""
        return self.to_clip(self.shown[1])

    def to_clip(self, seconds: float) -> float:
        """A time of the file as a time of the part that is shown, in seconds; to the microsecond with a clip."""
        return seconds if self.clip is None else round(seconds - self.clip[0], 6)

    def from_clip(self, seconds: float) -> float:
        """The inverse of `to_clip`: a time that a model answered as a time of the file, in seconds."""
        return seconds if self.clip is None else round(seconds + self.clip[0], 6)

    @property
    def clip_windows(self) -> tuple[Window, ...]:
        """``windows`` in seconds of the part that is shown."""
        return tuple((self.to_clip(start), self.to_clip(end)) for start, end in self.windows)

    @property
    def window(self) -> Window:
        """The only window of a one-window row, in seconds; raises `DataError` if there are several."""
        if len(self.windows) != 1:
            raise DataError(
                f"row {self.id!r} has {len(self.windows)} windows, training needs one-window rows; "
                "split it with data_prep.rows.split_windows"
            )
        return self.windows[0]


def parse_row(record: Any, where: str) -> Row:
    """Turn one decoded JSON object into a `Row`; raises `DataError` that starts with ``where``."""
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(record).__name__}")
    for name in ("id", "video", "duration", "query", "windows"):
        if name not in record:
            raise DataError(f"{where}: field {name!r} is missing")
    for name in ("id", "video", "query"):
        if not isinstance(record[name], str) or not record[name].strip():
            raise DataError(f"{where}: field {name!r} must be a non-empty string, found {record[name]!r}")
    where = f"{where} (id {record['id']!r})"
    foreign = NOT_TEXT.search(record["query"])
    if foreign:
        raise DataError(f"{where}: the query holds {foreign.group()!r}, which is no text but a mark; remove it")
    check_video_name(record["video"], where)
    duration = _seconds(record["duration"], f"{where}: duration")
    if duration <= 0:
        raise DataError(f"{where}: duration must be positive, found {duration}")
    if not isinstance(record["windows"], list | tuple) or not record["windows"]:
        raise DataError(f"{where}: 'windows' must be a non-empty list of [start, end]")
    clip = None
    if record.get("clip") is not None:
        clip = _window(record["clip"], duration, f"{where}: clip")
    windows = []
    for window in record["windows"]:
        start, end = _window(window, duration, f"{where}: window")
        if clip is not None and not clip[0] <= start < end <= clip[1]:
            raise DataError(
                f"{where}: window [{start}, {end}] does not lie inside the clip [{clip[0]}, {clip[1]}]; both are "
                "seconds of the file"
            )
        windows.append((start, end))
    meta = record.get("meta") or {}
    if not isinstance(meta, dict):
        raise DataError(f"{where}: 'meta' must be an object")
    return Row(
        id=record["id"],
        video=record["video"],
        duration=duration,
        query=record["query"],
        windows=tuple(windows),
        dataset=str(record.get("dataset") or ""),
        split=str(record.get("split") or ""),
        meta=meta,
        clip=clip,
    )


def as_record(row: Row) -> dict[str, Any]:
    """The JSON object of a row, as `parse_row` takes it; ``clip`` is there only where the row has one."""
    record = asdict(row)
    if row.clip is None:
        del record["clip"]
    return record


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """Read a JSONL file of rows, or the parquet file of `write_parquet` if the name ends so.

    Raises `DataError` naming file and line for malformed JSON, a bad field, a window outside the video, a
    repeated id, or a file without any row.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    rows: list[Row] = []
    line_of_id: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(f"{where}: not valid JSON ({error.msg}, column {error.colno})") from error
                row = parse_row(record, where)
                if row.id in line_of_id:
                    raise DataError(f"{where}: id {row.id!r} is already used in line {line_of_id[row.id]}")
                line_of_id[row.id] = number
                rows.append(row)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return rows


def write_rows(rows: Iterable[Row], path: str | os.PathLike[str]) -> int:
    """Write rows as JSONL, atomically (all of the file or none of it); returns how many."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            for row in rows:
                out.write(json.dumps(as_record(row), ensure_ascii=False) + "\n")
                count += 1
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return count


def write_parquet(rows: Iterable[Row], path: str | os.PathLike[str]) -> int:
    """Write rows as parquet, atomically, with the columns of the JSONL; returns how many."""
    import pyarrow
    import pyarrow.parquet

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist([asdict(row) for row in rows])
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        pyarrow.parquet.write_table(table, temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return table.num_rows


def split_windows(rows: Iterable[Row]) -> list[Row]:
    """One row per window: ids get ``#0``, ``#1``, … if a query has several windows (paper, section 3.1)."""
    single = []
    for row in rows:
        if len(row.windows) == 1:
            single.append(row)
            continue
        for index, window in enumerate(row.windows):
            single.append(replace(row, id=f"{row.id}#{index}", windows=(window,)))
    return single


def check_video_name(name: str, where: str) -> None:
    """Refuse a video name that could leave the video folder or name a protocol; raises `DataError`."""
    parts = name.replace("\\", "/").split("/")
    if "://" in name or name.startswith(("/", "\\", "~")) or ".." in parts or (len(name) > 1 and name[1] == ":"):
        raise DataError(f"{where}: video name {name!r} must be a relative path inside the video folder")
    if any(ord(char) < 32 or is_surrogate(char) for char in name):
        raise DataError(f"{where}: video name {name!r} holds a control character or half of a character")


def is_surrogate(char: str) -> bool:
    """Whether ``char`` is half of a UTF-16 pair: JSON can spell it (``\\ud83d``), no file can hold it."""
    return "\ud800" <= char <= "\udfff"


def is_seconds(value: Any) -> bool:
    """Whether ``value`` is a finite number below `MAX_SECONDS` (not a bool)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_SECONDS


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        records = pyarrow.parquet.read_table(path).to_pylist()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a parquet file ({error})") from error
    rows: dict[str, Row] = {}
    for number, record in enumerate(records, start=1):
        # A column holds every field that some row's meta has; where a row does not have it, it is null.
        meta = {name: value for name, value in (record.get("meta") or {}).items() if value is not None}
        row = parse_row({**record, "meta": meta}, f"{path}: row {number}")
        if row.id in rows:
            raise DataError(f"{path}: row {number}: id {row.id!r} is already used")
        rows[row.id] = row
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return list(rows.values())


def _window(window: Any, duration: float, where: str) -> Window:
    """``window`` as ``(start, end)`` in seconds; raises `DataError` unless 0 <= start < end <= duration."""
    if not isinstance(window, list | tuple) or len(window) != 2:
        raise DataError(f"{where} {window!r} is not [start, end]")
    start, end = (_seconds(value, f"{where} {list(window)}") for value in window)
    if not 0 <= start < end <= duration:
        raise DataError(
            f"{where} [{start}, {end}] does not satisfy 0 <= start < end <= duration "
            f"({duration} s); repair the row or clip it to the video with `invert-rl convert`"
        )
    return start, end


def _seconds(value: Any, where: str) -> float:
    if not is_seconds(value):
        raise DataError(f"{where}: {value!r} is not a finite number of seconds")
    return float(value)
