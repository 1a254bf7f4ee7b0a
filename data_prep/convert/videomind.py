"""VideoMind-SFT's own annotation lines: cosmo_cap, internvid_vtime, vid_morp (flat JSONL)."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_prep.convert.durations import read_durations
from data_prep.convert.grounding import RowBuilder, VideoNames, numbers_of
from data_prep.convert.ledger import Entry, Ledger
from data_prep.errors import DataError
from data_prep.files import iter_records
from data_prep.progress import progress
from data_prep.rows import Row

NAME = "videomind"
HELP = "VideoMind-SFT's cosmo_cap, internvid_vtime and vid_morp lines (JSONL)"
PATTERN = "{video}.mp4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beyond those all grounding sets have."""
    parser.add_argument("--durations", type=Path, help="its durations.json, where a line has none")


def convert(args: argparse.Namespace, ledger: Ledger, video_name: VideoNames) -> Iterable[Row]:
    """The rows that the parsed command line asks for."""
    return read(args.annotations, args.durations, args.split, ledger, video_name)


def read(
    annotations: Path,
    durations: Path | None,
    split: str,
    ledger: Ledger,
    video_name: VideoNames,
    dataset: str = NAME,
) -> Iterable[Row]:
    """Rows, one per line, with id ``DATASET-SPLIT-NUMBER``; ``span`` is one window or several.

    The files of internvid_vtime are cut already: times count from the start of the cut.
    """
    length = read_durations(durations) if durations is not None else {}
    builder = RowBuilder(dataset, split, annotations, ledger, video_name)
    for number, where, record in progress(iter_records(annotations), dataset):
        if not {"vid", "query", "span"} <= record.keys():
            raise DataError(f"{where}: expected the fields vid, query and span; is it a file of VideoMind-SFT?")
        span: Any = record["span"]
        video = str(record["vid"])
        duration = record.get("duration", length.get(video))
        windows = [span] if numbers_of(span) else span
        builder.add(Entry(number, where, record), str(number), video, duration, record["query"], windows)
    return builder.rows
