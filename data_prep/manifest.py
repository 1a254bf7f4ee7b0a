"""The manifest: one line per checked video, and what training and evaluation make of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO

from data_prep.errors import DataError
from data_prep.probe import OK, STATUSES, VideoRecord
from data_prep.rows import Row

DURATION_TOLERANCE = 1.0
"""Seconds by which a row's duration and the decoded one may differ; annotators rounded to whole seconds."""


@dataclass(frozen=True)
class DurationMismatch:
    """A video whose decoded length is not the one in the rows; both in seconds."""

    video: str
    annotated: float
    decoded: float


def read_manifest(path: str | os.PathLike[str]) -> dict[str, VideoRecord]:
    """The last record of each video, by its name relative to the video folder.

    A last line without its line end (the check was killed while writing it) is ignored. Raises `DataError`
    for a missing file or another malformed line.
    """
    path = Path(path)
    names = {field.name for field in fields(VideoRecord)}
    records: dict[str, VideoRecord] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such manifest; write it with `invert-rl check-videos`") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: not valid JSON ({error.msg}); delete the line") from error
        if not isinstance(record, dict) or not {"video", "status"} <= record.keys():
            raise DataError(f"{path}:{number}: expected an object with 'video' and 'status'; is it a manifest?")
        if record["status"] not in STATUSES:
            raise DataError(f"{path}:{number}: unknown status {record['status']!r}")
        records[record["video"]] = VideoRecord(**{name: record[name] for name in names & record.keys()})
    return records


def open_manifest(path: str | os.PathLike[str]) -> IO[str]:
    """Open a manifest for `append_record`, cutting off a last line that was not written to its end."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            os.truncate(path, whole)
    return path.open("a", encoding="utf-8")


def append_record(manifest: IO[str], record: VideoRecord) -> None:
    """Add one line and hand it to the operating system at once."""
    manifest.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
    manifest.flush()


def duration_mismatches(
    rows: Iterable[Row], manifest: Mapping[str, VideoRecord], tolerance: float = DURATION_TOLERANCE
) -> list[DurationMismatch]:
    """Videos whose duration in the rows is over ``tolerance`` seconds off the decoded one, in row order.

    For a row with a clip: those that end before the clip does.
    """
    found: dict[tuple[str, float], DurationMismatch] = {}
    for row in rows:
        record = manifest.get(row.video)
        if record is None or record.status != OK or record.duration is None:
            continue
        # Of a file that is used in part its set may not know the length: it must reach the clip's end.
        short = row.shown[1] - record.duration > tolerance
        if short if row.clip is not None else abs(row.duration - record.duration) > tolerance:
            mismatch = DurationMismatch(row.video, row.duration, record.duration)
            found.setdefault((row.video, row.duration), mismatch)
    return list(found.values())


def split_usable(rows: Iterable[Row], manifest: Mapping[str, VideoRecord]) -> tuple[list[Row], dict[str, str]]:
    """Rows whose video can be used, and for every other row id the reason.

    A row is left out if its video is not ``ok`` or not in the manifest, or if a window starts at or after the
    end of the decoded video. It depends on the two arguments alone, so every rank that reads the same files
    decides the same.
    """
    usable: list[Row] = []
    left_out: dict[str, str] = {}
    for row in rows:
        record = manifest.get(row.video)
        if record is None:
            left_out[row.id] = f"{row.video}: not in the manifest; run `invert-rl check-videos` again"
        elif record.status != OK:
            left_out[row.id] = f"{row.video}: {record.status} ({record.reason})"
        elif record.duration is not None and any(start >= record.duration for start, _ in row.windows):
            left_out[row.id] = f"{row.video}: a window starts after the end of the video ({record.duration} s)"
        else:
            usable.append(row)
    return usable, left_out
