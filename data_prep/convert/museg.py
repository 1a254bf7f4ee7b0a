"""MUSEG: training lines and evaluation lists whose query stands inside an instruction."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from data_prep.convert.durations import read_durations
from data_prep.convert.grounding import RowBuilder
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import iter_records
from data_prep.progress import progress

NAME = "museg"
HELP = "MUSEG's training lines (JSONL) and evaluation lists (JSON)"
PATTERN = "{video}"
QUOTED = re.compile(r"(?<!\w)'(?P<query>.*)'", re.DOTALL)
"""From the first quote that opens a word to the last one: queries hold quotes themselves (tidy's)."""
SENTENCE = re.compile(r"textual sentence: (?P<query>.*)", re.DOTALL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beyond those all grounding sets have."""
    parser.add_argument(
        "--durations",
        type=Path,
        help="seconds by video, where the file has none: JSON {video: seconds}, or a csv with columns id and length",
    )


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows of MUSEG, one per record with all its windows, with id ``museg-SPLIT-NUMBER`` (place in the file from 1).

    The query is taken out of the instruction. ``durations`` (by file name without ending) gives the lengths that the
    file lacks: half of the training lines, all of Charades, and the evaluation lists; without it they are rejected.
    """
    length = read_durations(args.durations) if args.durations is not None else {}
    for number, where, record in progress(iter_records(args.annotations), NAME):
        text = record.get("problem", record.get("question"))
        windows = record.get("solution", record.get("groundtruth"))
        if not isinstance(text, str) or windows is None or not isinstance(record.get("video"), str):
            raise DataError(f"{where}: expected video, problem and solution, or video, question and groundtruth")
        entry = Entry(number, where, record)
        found = SENTENCE.search(text) or QUOTED.search(text)
        if found is None:
            builder.ledger.reject(entry, "the instruction holds no quoted query", text)
            continue
        video = record["video"].removeprefix("videos/")
        duration = record.get("duration", length.get(Path(video).stem))
        meta = {"task": record["task"]} if isinstance(record.get("task"), str) else {}
        builder.add(entry, str(number), video, duration, found["query"], windows, meta)
