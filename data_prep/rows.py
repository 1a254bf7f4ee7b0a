"""The common row: one query with its windows in one video, one JSON object per line.

``{"id", "dataset", "split", "video", "duration", "query", "windows": [[s, e], …], "meta": {}}`` with
times in seconds of the video's file and ``0 <= s < e <= duration``. A row may have ``"clip": [s, e]``, the part of
the file that is "the video": windows then lie inside it, and a model sees it alone and answers in its time, which
starts at 0 where the clip does. `Row.to_clip` and `Row.from_clip` convert between the two.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import atomic_write, decode_json, unreadable

Window = tuple[float, float]

MAX_SECONDS = 1e9
"""Larger numbers, 30 years and more, are damage."""

NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]|<\|[^<>|]*\|>")
"""Control characters, halves of characters, and the marks by which chat templates tell roles and videos apart."""

DEEPEST = 32
"""Lists and objects inside one another in ``meta``."""


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
    place: str = field(default="", compare=False, repr=False)
    """Where the row was read, ``file:line``, for messages; not written."""

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


def parse_row(record: Any, where: str, unlabelled: bool = False) -> Row:
    """Turn one decoded JSON object into a `Row`; raises `DataError` that starts with ``where``.

    ``windows`` may be empty where ``meta.irrelevant`` says that the video does not show what the query asks for, and,
    with ``unlabelled``, where nobody has annotated it.
    """
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(record).__name__}")
    for name in ("id", "video", "duration", "query", "windows"):
        if name not in record:
            raise DataError(f"{where}: field {name!r} is missing")
    for name in ("id", "video", "query"):
        if not isinstance(record[name], str) or not any(sign.isprintable() and sign != " " for sign in record[name]):
            raise DataError(f"{where}: field {name!r} must be a non-empty string, found {_shown(record[name])}")
    place, where = where, f"{where} (id {record['id']!r})"
    for name in ("id", "query", "dataset", "split"):
        if not isinstance(record.get(name) or "", str):
            raise DataError(f"{where}: field {name!r} must be a string, found {_shown(record[name])}")
        _check_text(record.get(name) or "", f"{where}: the {name}")
    check_video_name(record["video"], where)
    duration = _seconds(record["duration"], f"{where}: duration")
    if duration <= 0:
        raise DataError(f"{where}: duration must be positive, found {duration}")
    if not isinstance(record["windows"], list | tuple):
        raise DataError(f"{where}: 'windows' must be a list of [start, end]")
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
    meta = {} if record.get("meta") is None else record["meta"]
    check_meta(meta, where)
    if meta.get("verbs") and str(meta.get("masked_query", "")).split() == record["query"].split():
        raise DataError(
            f"{where}: nothing is masked in meta.masked_query, it is the query itself; write [] for each verb, or "
            "leave the field out to have it made"
        )
    if not windows and not unlabelled and not meta.get("irrelevant"):
        raise DataError(
            f"{where}: 'windows' must be a non-empty list of [start, end]; rows without are for predictions alone, or "
            "have meta.irrelevant where the video does not show the query"
        )
    return Row(
        id=record["id"],
        video=record["video"],
        duration=duration,
        query=record["query"],
        windows=tuple(windows),
        dataset=record.get("dataset") or "",
        split=record.get("split") or "",
        meta=meta,
        clip=clip,
        place=place,
    )


def check_meta(meta: Any, where: str) -> None:
    """Refuse a ``meta`` that could not be trained on or written again; raises `DataError` that starts with ``where``.

    ``verbs`` must be a list of words, ``masked_query`` and ``verb_pipeline`` text, ``annotated_windows`` pairs of
    numbers; no text in it may hold what a query may not, as any of it may come into a prompt.
    """
    if not isinstance(meta, dict):
        raise DataError(f"{where}: 'meta' must be an object, found {_shown(meta)}")
    _check_values(meta, where)
    if "verbs" in meta:
        verbs = meta["verbs"]
        if not isinstance(verbs, list | tuple) or not all(isinstance(verb, str) and verb.strip() for verb in verbs):
            raise DataError(
                f'{where}: meta.verbs must be a list of words, such as ["open"], found {_shown(verbs)}; '
                "without the field the verbs are found in the query"
            )
        shouted = [verb for verb in verbs if verb != verb.lower()]
        if shouted:
            raise DataError(
                f"{where}: meta.verbs must be base forms in small letters, as answers are compared with them; found "
                f"{shouted[0]!r}"
            )
    for name in ("masked_query", "verb_pipeline"):
        if name in meta and not (isinstance(meta[name], str) and meta[name].strip()):
            raise DataError(
                f"{where}: meta.{name} must be a non-empty string, found {_shown(meta[name])}; leave the field out "
                "if there is none"
            )
    events = meta.get("events")
    for event in events if isinstance(events, list | tuple) else ():
        if isinstance(event, list | tuple) and len(event) == 3 and not all(map(is_seconds, event[1:])):
            raise DataError(
                f"{where}: meta.events must be a list of [name, start, end] in seconds, found {_shown(event)}"
            )
    windows = meta.get("annotated_windows", [])
    if not isinstance(windows, list | tuple) or not all(
        isinstance(window, list | tuple) and len(window) == 2 and all(map(is_seconds, window)) for window in windows
    ):
        raise DataError(f"{where}: meta.annotated_windows must be a list of [start, end], found {_shown(windows)}")


def _check_values(meta: dict[str, Any], where: str) -> None:
    """All texts of ``meta`` are text, all whole numbers have 64 bits, and nothing is nested deeper than `DEEPEST`."""
    waiting: list[tuple[Any, str, int]] = [(meta, "meta", 0)]
    while waiting:
        value, name, depth = waiting.pop()
        if depth > DEEPEST:
            raise DataError(f"{where}: meta is nested more than {DEEPEST} deep")
        if isinstance(value, str):
            _check_text(value, f"{where}: {name}")
        elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise DataError(f"{where}: {name} is a number of more than 64 bits")
        elif isinstance(value, float) and not math.isfinite(value):
            raise DataError(f"{where}: {name} is {value!r}, which is no number")
        elif isinstance(value, dict):
            for key, inner in value.items():
                _check_text(key, f"{where}: a key of {name}")
                waiting.append((inner, f"{name}.{key}", depth + 1))
        elif isinstance(value, list | tuple):
            waiting += [(inner, name, depth + 1) for inner in value]


def _check_text(text: str, what: str) -> None:
    foreign = NOT_TEXT.search(text)
    if foreign:
        raise DataError(f"{what} holds {foreign.group()!a}, which is no text but a mark; remove it")


def _shown(value: Any) -> str:
    """A value for an error message; a huge number or a deep list is cut."""
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return "a number of more than 64 bits"
    return ascii(value)[:80]


FIELDS = tuple(one.name for one in fields(Row) if one.name != "place")


def as_record(row: Row) -> dict[str, Any]:
    """The JSON object of a row, as `parse_row` takes it; ``clip`` is there only where the row has one."""
    return {name: getattr(row, name) for name in FIELDS if name != "clip" or row.clip is not None}


def is_irrelevant(row: Row) -> bool:
    """Whether the row's video is known not to show what its query asks for: no windows, and ``meta.irrelevant``."""
    return not row.windows and bool(row.meta.get("irrelevant"))


def read_rows(path: str | os.PathLike[str], unlabelled: bool = False) -> list[Row]:
    """Read a JSONL file of rows, or the parquet file of `write_parquet` if the name ends so.

    ``unlabelled``: rows without windows are rows, too, which can be answered and not scored (`parse_row`). Raises
    `DataError` naming file and line for malformed JSON, a bad field, a window outside the video, a repeated id, or a
    file without any row.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        return _read_parquet(path, unlabelled)
    rows: list[Row] = []
    places: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = parse_row(decode_json(line.rstrip("\n"), str(path), number), f"{path}:{number}", unlabelled)
                claim_ids(row, places, f"{path}:{number}", f"line {number}")
                rows.append(row)
    except OSError as error:
        raise unreadable(path, error, "a file of rows") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return rows


def claim_ids(row: Row, places: dict[str, str], where: str, place: str) -> None:
    """Note ``place`` for the row's id and for those that `split_windows` would give its parts.

    Raises `DataError` that starts with ``where`` if one of them is taken: of rows that share an id, or of
    ``a#0`` and the first part of ``a``, predictions and answers could not be told apart.
    """
    for name in [row.id, *part_ids(row)]:
        if name in places:
            part = "" if name == row.id else f", the id of a part of {row.id!r} (one for each window),"
            raise DataError(f"{where}: id {name!r}{part} is already used in {places[name]}")
        places[name] = place


def part_ids(row: Row) -> list[str]:
    """The ids of the rows that `split_windows` makes of a row of several windows; none for one window."""
    return [f"{row.id}#{index}" for index in range(len(row.windows))] if len(row.windows) > 1 else []


def write_rows(rows: Iterable[Row], path: str | os.PathLike[str]) -> int:
    """Write rows as JSONL, atomically (all of the file or none of it); returns how many."""
    count = 0
    with atomic_write(path) as out:
        for row in rows:
            out.write(json.dumps(as_record(row), ensure_ascii=False) + "\n")
            count += 1
    return count


def write_parquet(rows: Iterable[Row], path: str | os.PathLike[str]) -> int:
    """Write rows as parquet, atomically, with the columns of the JSONL; returns how many."""
    import pyarrow
    import pyarrow.parquet

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        table = pyarrow.Table.from_pylist([{"clip": None, **as_record(row)} for row in rows])
    except (pyarrow.ArrowException, OverflowError) as error:
        raise DataError(f"{path}: the rows' meta does not fit into columns ({error}); write JSON lines") from error
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
    """One row per window: ids get ``#0``, ``#1``, … if a query has several windows (paper, section 3.1).

    ``meta.annotated_windows`` is divided likewise; a row without windows stays as it is.
    """
    single = []
    for row in rows:
        if len(row.windows) <= 1:
            single.append(row)
            continue
        annotated = row.meta.get("annotated_windows", ())
        for place, (name, window) in enumerate(zip(part_ids(row), row.windows, strict=True)):
            own = {"annotated_windows": [annotated[place]]} if len(annotated) == len(row.windows) else {}
            single.append(replace(row, id=name, windows=(window,), meta={**row.meta, **own}))
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


def _read_parquet(path: Path, unlabelled: bool) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        records = pyarrow.parquet.read_table(path).to_pylist()
    except OSError as error:
        raise unreadable(path, error, "a parquet file of rows") from error
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a parquet file ({error})") from error
    rows: list[Row] = []
    places: dict[str, str] = {}
    for number, record in enumerate(records, start=1):
        # A column holds every field that some row's meta has; where a row does not have it, it is null.
        meta = {name: value for name, value in (record.get("meta") or {}).items() if value is not None}
        row = parse_row({**record, "meta": meta}, f"{path}: row {number}", unlabelled)
        claim_ids(row, places, f"{path}: row {number}", f"row {number}")
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return rows


def _window(window: Any, duration: float, where: str) -> Window:
    """``window`` as ``(start, end)`` in seconds; raises `DataError` unless 0 <= start < end <= duration."""
    if not isinstance(window, list | tuple) or len(window) != 2:
        raise DataError(f"{where} {_shown(window)} is not [start, end]")
    start, end = (_seconds(value, f"{where} {_shown(list(window))}") for value in window)
    if not 0 <= start < end <= duration:
        raise DataError(
            f"{where} [{start}, {end}] does not satisfy 0 <= start < end <= duration "
            f"({duration} s); repair the row or clip it to the video with `invert-rl convert`"
        )
    return start, end


def _seconds(value: Any, where: str) -> float:
    if not is_seconds(value):
        raise DataError(f"{where}: {_shown(value)} is not a finite number of seconds")
    return float(value)
