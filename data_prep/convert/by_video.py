"""One JSON object by video: TimeLens-Bench (``spans``, ``queries``), and others (``timestamps``, ``sentences``)."""

from __future__ import annotations

import argparse
from typing import Any

from data_prep.convert.grounding import RowBuilder
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import read_json
from data_prep.progress import progress

NAME = "timelens-bench"
HELP = "TimeLens-Bench, and other objects by video of spans and queries or timestamps and sentences (JSON)"
PATTERN = "{video}.mp4"
LISTS = (("spans", "queries"), ("timestamps", "sentences"))
DURATIONS = ("duration", "video_duration")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments beyond those all grounding sets have: the file holds the durations."""


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows, one per query, with id ``timelens-bench-SPLIT-VIDEO-INDEX``.

    Windows are written as published, whole seconds in TimeLens-Bench. Raises `DataError` for another layout.
    """
    database = read_json(args.annotations)
    if not isinstance(database, dict):
        raise DataError(f"{args.annotations}: expected an object of videos, found {type(database).__name__}")
    line = 0
    for video, record in progress(database.items(), NAME, total=len(database)):
        where = f"{args.annotations}: video {video!r}"
        windows, queries, duration = _parts(record, where)
        for index, (window, query) in enumerate(zip(windows, queries, strict=True)):
            line += 1
            source = {"video": video, "index": index, "duration": duration, "span": window, "query": query}
            entry = Entry(line, f"{where}, query {index}", source)
            builder.add(entry, f"{video}-{index}", video, duration, query, [window])


def _parts(record: Any, where: str) -> tuple[list[Any], list[Any], Any]:
    """Windows, queries and duration of a video; raises `DataError` for another layout."""
    if isinstance(record, dict):
        length = next((record[name] for name in DURATIONS if name in record), None)
        for times, texts in LISTS:
            windows, queries = record.get(times), record.get(texts)
            if isinstance(windows, list) and isinstance(queries, list):
                if len(windows) != len(queries):
                    raise DataError(f"{where}: {len(windows)} {times}, but {len(queries)} {texts}")
                return windows, queries, length
    raise DataError(f"{where}: expected a duration and the lists spans and queries, or timestamps and sentences")
