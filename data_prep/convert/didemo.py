"""DiDeMo and TEMPO: windows of 5 s chunks by several annotators."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from data_prep.convert.durations import read_durations
from data_prep.convert.grounding import RowBuilder, numbers_of
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import iter_records
from data_prep.progress import progress

NAME = "didemo"
HELP = "DiDeMo and TEMPO (JSON)"
PATTERN = "{video}"
CHUNK = 5.0
"""Seconds of a chunk; the first 30 s were annotated."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beyond those all grounding sets have."""
    parser.add_argument(
        "--annotators",
        choices=("majority", "mean", "all"),
        default="majority",
        help="which window of several annotators: the most frequent (the first of them), their mean in whole "
        "seconds (VideoMind's), or each different one as a window (default: %(default)s)",
    )
    parser.add_argument("--durations", type=Path, help="JSON {video: seconds}; default: 5 s for each of num_segments")


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows of DiDeMo, with id ``didemo-SPLIT-ANNOTATION_ID``; ``times`` (chunks of all annotators) and ``num_segments``
    go to ``meta``.

    Chunk a to b, both included, is ``[5 a, 5 (b + 1)]`` s, clipped to the length. In TEMPO ``times`` may be one pair.
    Raises `DataError` for another layout.
    """
    length = read_durations(args.durations) if args.durations is not None else {}
    for number, where, record in progress(iter_records(args.annotations), NAME):
        if not {"annotation_id", "description", "video", "times", "num_segments"} <= record.keys():
            raise DataError(f"{where}: expected annotation_id, description, video, times and num_segments")
        entry, times = Entry(number, where, record), record["times"]
        if _chunks(times):
            times = [times]
        if not isinstance(times, list) or not times or not all(_chunks(pair) for pair in times):
            builder.ledger.reject(entry, "the times are not pairs of chunks", repr(times))
            continue
        video = str(record["video"])
        duration = length.get(Path(video).stem)
        count = numbers_of([record["num_segments"]])
        if duration is None and count is not None:
            duration = CHUNK * count[0]
            builder.ledger.note(entry, "length of the video unknown: 5 s for each of its chunks")
        meta = {"times": times, "num_segments": record["num_segments"]}
        key = f"{record['annotation_id']}"
        builder.add(entry, key, video, duration, record["description"], chosen(times, args.annotators), meta)


def chosen(times: list[list[int]], annotators: str) -> list[list[float]]:
    """The windows in seconds that several annotators' chunks ``[first, last]`` become, by the rule of that name.

    "mean" is VideoMind's: whole seconds of the mean first and the mean last chunk.
    """
    pairs = [(int(first), int(last)) for first, last in times]
    if annotators == "mean":
        first, last = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
        return [[float(round(CHUNK * first)), float(round(CHUNK * (last + 1)))]]
    kept = sorted(set(pairs)) if annotators == "all" else [Counter(pairs).most_common(1)[0][0]]
    return [[CHUNK * first, CHUNK * (last + 1)] for first, last in kept]


def _chunks(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(type(chunk) is int and 0 <= chunk < 6 for chunk in pair)
