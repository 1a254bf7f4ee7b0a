"""A hand-made set: a JSON list of ``{video, query, windows}`` with the video files beside it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from data_prep.check_videos import probe_each
from data_prep.convert.grounding import RowBuilder
from data_prep.convert.ledger import Entry, Ledger
from data_prep.errors import DataError
from data_prep.files import read_json
from data_prep.probe import OK, VideoRecord
from data_prep.progress import progress
from data_prep.rows import Row, check_video_name
from data_prep.workers import TIMEOUT_SECONDS

NAME = "clips"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beyond those all grounding sets have."""
    parser.add_argument(
        "--videos",
        type=Path,
        required=True,
        metavar="DIR",
        help="the video folder; durations come from decoding",
    )


def convert(args: argparse.Namespace, ledger: Ledger) -> Iterable[Row]:
    """The rows that the parsed command line asks for."""
    return read(args.annotations, args.videos, args.split, ledger)


def read(annotations: Path, videos: Path, split: str, ledger: Ledger) -> Iterable[Row]:
    """Rows of a hand-made set, one per query, with id ``clips-SPLIT-NUMBER`` (position in the file from 1).

    The file is a list, or an object with the list under ``annotations``; ``video`` is a path relative to
    ``videos``. A query without a window and one whose video is broken are rejected. ``note`` and
    ``tolerance_s`` go to ``meta``. Raises `DataError` for a malformed file.
    """
    listed = read_json(annotations)
    if isinstance(listed, dict):
        listed = listed.get("annotations")
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{annotations}: expected a list of {{video, query, windows}}, or it under 'annotations'")
    for number, record in enumerate(listed, start=1):
        where = f"{annotations}: entry {number}"
        if not isinstance(record, dict) or not {"video", "query", "windows"} <= record.keys():
            raise DataError(f"{where}: expected an object with the fields video, query and windows")
        if not isinstance(record["video"], str):
            raise DataError(f"{where}: field 'video' must be text, found {record['video']!r}")
        check_video_name(record["video"], where)
    if not videos.is_dir():
        raise DataError(f"{videos}: no such video folder")
    records = _decode(videos, list(dict.fromkeys(record["video"] for record in listed)))
    builder = RowBuilder(NAME, split, annotations, ledger, video_name=str)
    for number, record in enumerate(listed, start=1):
        entry = Entry(number, f"{annotations}: entry {number}", record)
        video = records[record["video"]]
        if video.status != OK:
            ledger.reject(entry, f"the video is {video.status}", f"{video.video}: {video.reason}")
            continue
        meta = {name: record[name] for name in ("note", "tolerance_s") if name in record}
        builder.add(entry, str(number), record["video"], video.duration, record["query"], record["windows"], meta)
    return builder.rows


def _decode(videos: Path, names: list[str]) -> dict[str, VideoRecord]:
    decoded = probe_each(videos, names, workers=os.cpu_count() or 1, timeout=TIMEOUT_SECONDS)
    return dict(progress(decoded, "decode", total=len(names)))
