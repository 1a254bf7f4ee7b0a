"""Charades-STA: ``VIDEO START END##query`` lines, durations from the csv of Charades."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from data_prep.convert.grounding import RowBuilder
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import read_csv, read_lines
from data_prep.progress import progress

NAME = "charades-sta"
HELP = "Charades-STA (txt and the csv of durations)"
PATTERN = "{video}.mp4"
LINE = re.compile(r"(?P<video>\S+) +(?P<start>\S+) +(?P<end>\S+?)##(?P<query>.*)", re.DOTALL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beyond those all grounding sets have."""
    parser.add_argument(
        "--durations",
        type=Path,
        required=True,
        help="Charades_v1_train.csv or _test.csv (columns id, length)",
    )


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows of Charades-STA, one per line, with id ``charades-sta-SPLIT-LINE``.

    A line of another form is rejected; raises `DataError` if no line has it or a file is malformed.
    """
    length = read_lengths(args.durations)
    lines = read_lines(args.annotations)
    if not any(LINE.fullmatch(line) for _, line in lines):
        raise DataError(
            f"{args.annotations}:{lines[0][0]}: no line has the form 'VIDEO START END##query' (this one is "
            f"{lines[0][1][:80]!r}); is it a Charades-STA file?"
        )
    for number, line in progress(lines, NAME):
        entry = Entry(number, f"{args.annotations}:{number}", line)
        match = LINE.fullmatch(line)
        if match is None:
            builder.ledger.reject(entry, "the line is not 'VIDEO START END##query'", line)
        elif "##" in match["query"]:
            builder.ledger.reject(entry, "the line has more than one '##'", line)
        else:
            video = match["video"]
            window = [_number(match["start"]), _number(match["end"])]
            builder.add(entry, str(number), video, length.get(video), match["query"], [window])


def read_lengths(path: Path) -> dict[str, float]:
    """Seconds of each video by id, from the columns ``id`` and ``length``; raises `DataError`."""
    lengths: dict[str, float] = {}
    for line, record in read_csv(path, ("id", "length")):
        video, seconds = record["id"], _number(record["length"])
        if not isinstance(seconds, float):
            raise DataError(f"{path}:{line}: length {seconds!r} of {video} is not a number of seconds")
        if lengths.get(video, seconds) != seconds:
            raise DataError(f"{path}:{line}: {video} has two lengths, {lengths[video]} and {seconds}")
        lengths[video] = seconds
    return lengths


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
