"""HiREST: how-to queries with the part of a video that answers them, and that part's steps."""

from __future__ import annotations

import argparse
from typing import Any

from data_prep.convert.grounding import RowBuilder
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import read_json
from data_prep.progress import progress

NAME = "hirest"
HELP = "HiREST, the moments or their steps (JSON)"
PATTERN = "{video}"
PLACEHOLDERS = ([0, 0], [0, 1])
"""Bounds of videos that are relevant as a whole (train, val) and of all videos of the test file."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beyond those all grounding sets have."""
    parser.add_argument(
        "--moments",
        choices=("grounding", "steps"),
        default="grounding",
        help="grounding: the query and its part of the video; steps: each step's heading (default: %(default)s)",
    )


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows of HiREST with id ``hirest-SPLIT-NUMBER``: the number of the moment or step in the file, from 1.

    A video that is the answer as a whole, one that is not relevant, and the test file's placeholders are rejected.
    Raises `DataError` for another layout.
    """
    database = read_json(args.annotations)
    if not isinstance(database, dict) or not all(isinstance(videos, dict) for videos in database.values()):
        raise DataError(f"{args.annotations}: expected an object of queries, each an object of videos")
    number = 0
    for query, videos in progress(database.items(), NAME, total=len(database)):
        for video, record in videos.items():
            where = f"{args.annotations}: query {query!r}, video {video}"
            if not isinstance(record, dict):
                raise DataError(f"{where}: expected an object")
            for text, window in _asked(query, record, args.moments, where):
                number += 1
                source = {"query": query, "video": video, **record}
                entry = Entry(number, where, source)
                if not record.get("relevant") or not record.get("clip"):
                    builder.ledger.reject(entry, "the video is not relevant, or all of it is the answer")
                elif window in PLACEHOLDERS:
                    builder.ledger.reject(entry, "the bounds are a placeholder", repr(window))
                else:
                    meta = {"task": query} if args.moments == "steps" else {}
                    builder.add(entry, str(number), video, record.get("v_duration"), text, [window], meta)


def _asked(query: str, record: dict[str, Any], moments: str, where: str) -> list[tuple[Any, Any]]:
    """What is asked about one video, each with its window."""
    if moments == "grounding":
        return [(query, record.get("bounds"))]
    steps = record.get("steps", [])
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise DataError(f"{where}: steps must be a list of objects")
    return [(step.get("heading"), step.get("absolute_bounds")) for step in steps]
