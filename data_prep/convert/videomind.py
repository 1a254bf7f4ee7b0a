"""VideoMind-SFT's own annotation lines: cosmo_cap, internvid_vtime, vid_morp (flat JSONL)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from data_prep.convert.durations import read_durations
from data_prep.convert.grounding import RowBuilder, numbers_of
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import iter_records
from data_prep.progress import progress

NAME = "videomind"
HELP = "VideoMind-SFT's cosmo_cap, internvid_vtime and vid_morp lines (JSONL)"
PATTERN = "{video}.mp4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beyond those all grounding sets have."""
    parser.add_argument("--durations", type=Path, help="its durations.json, where a line has none")


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows, one per line, with id ``DATASET-SPLIT-NUMBER``; ``span`` is one window or several.

    The files of internvid_vtime are cut already: times count from the start of the cut.
    """
    length = read_durations(args.durations) if args.durations is not None else {}
    for number, where, record in progress(iter_records(builder.source), builder.dataset):
        if not {"vid", "query", "span"} <= record.keys():
            raise DataError(f"{where}: expected the fields vid, query and span; is it a file of VideoMind-SFT?")
        span: Any = record["span"]
        video = str(record["vid"])
        duration = record.get("duration", length.get(video))
        windows = [span] if numbers_of(span) else span
        builder.add(Entry(number, where, record), str(number), video, duration, record["query"], windows)
