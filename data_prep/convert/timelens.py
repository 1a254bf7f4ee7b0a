"""TimeLens-100K and TimeLens2-93K: JSON lines, a video with its events (grouped) or one query (flat)."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_prep.convert.grounding import RowBuilder, VideoNames, numbers_of
from data_prep.convert.ledger import Entry, Ledger
from data_prep.errors import DataError
from data_prep.files import iter_records
from data_prep.progress import progress
from data_prep.rows import Row

NAME = "timelens"
HELP = "TimeLens-100K and TimeLens2-93K, grouped or flat (JSONL)"
PATTERN = "{video}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments beyond those all grounding sets have: the file holds the durations."""


def convert(args: argparse.Namespace, ledger: Ledger, video_name: VideoNames) -> Iterable[Row]:
    """The rows that the parsed command line asks for."""
    return read(args.annotations, args.split, ledger, video_name)


def read(annotations: Path, split: str, ledger: Ledger, video_name: VideoNames) -> Iterable[Row]:
    """Rows, one per query with all its windows, with id ``timelens-SPLIT-LINE-INDEX``.

    A ``span`` is a list of windows or one window; ``video_start`` and ``video_end``, of an event or its line, become
    the row's clip, to which the windows are relative. A video that is a folder of frames (no ending) is rejected.
    """
    builder = RowBuilder(NAME, split, annotations, ledger, video_name)
    for number, where, record in progress(iter_records(annotations), NAME):
        events = record.get("events", [record])
        if not {"video_path", "duration"} <= record.keys() or not isinstance(events, list):
            raise DataError(f"{where}: expected the fields video_path, duration and events, or query and span")
        for index, event in enumerate(events):
            if not isinstance(event, dict) or not {"query", "span"} <= event.keys():
                raise DataError(f"{where}: event {index} has no query and span")
            _add(builder, Entry(number, f"{where}, event {index}", event), f"{number}-{index}", record, event)
    return builder.rows


def _add(builder: RowBuilder, entry: Entry, key: str, record: dict[str, Any], event: dict[str, Any]) -> None:
    video, duration, span = str(record["video_path"]), record["duration"], event["span"]
    if not Path(video).suffix:
        builder.ledger.reject(entry, "the video is a folder of frames, not a file", video)
        return
    windows: Any = [span] if numbers_of(span) else span
    bounds = numbers_of([event.get(name, record.get(name)) for name in ("video_start", "video_end")])
    clip = None
    if bounds is not None:
        if isinstance(windows, list) and all(numbers_of(window) for window in windows):
            windows = [[round(time + bounds[0], 6) for time in window] for window in windows]
        clip, duration = (bounds[0], bounds[1]), bounds[1]
        builder.ledger.note(entry, "length of the file unknown: the end of its clip stands for it")
    meta = {"source_dataset": record["source"]} if isinstance(record.get("source"), str) else {}
    builder.add(entry, key, video, duration, event["query"], windows, meta, clip)
