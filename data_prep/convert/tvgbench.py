"""TVGBench: 800 queries, 252 of them in a clip of a longer file; answers are text ``START-END``."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_prep.convert.grounding import RowBuilder, numbers_of
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import iter_records
from data_prep.progress import progress

NAME = "tvgbench"
HELP = "TVGBench (JSON)"
PATTERN = "{video}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments beyond those all grounding sets have: the file holds the durations."""


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows of TVGBench, with id ``tvgbench-SPLIT-NUMBER`` (place in the file from 1).

    ``start`` and ``end`` become the row's clip: one path occurs with several clips, so the file is the whole video. Its
    length is not in the data then: the clip's end stands for it. Eleven answers are empty windows and rejected, so that
    at most 789 of the 800 can score, in the published numbers too.
    """
    for number, where, record in progress(iter_records(args.annotations), NAME):
        if not {"path", "question", "answer", "duration"} <= record.keys():
            raise DataError(f"{where}: expected the fields path, question, answer and duration; is it tvgbench.json?")
        entry = Entry(number, where, record)
        window = numbers_of(str(record["answer"]).split("-"))
        if window is None or len(window) != 2:
            builder.ledger.reject(entry, "the answer is not START-END in seconds", repr(record["answer"]))
            continue
        clip, duration = None, record["duration"]
        bounds = numbers_of([record.get("start"), record.get("end")])
        if bounds is not None:
            clip, duration = (bounds[0], bounds[1]), bounds[1]
            window = [round(time + bounds[0], 6) for time in window]
            builder.ledger.note(entry, "length of the file unknown: the end of its clip stands for it")
        bins = record.get("bins")
        meta = {
            "qsemtype": record.get("qsemtype"),
            "source_dataset": bins.get("dataset") if isinstance(bins, dict) else None,
        }
        meta = {name: value for name, value in meta.items() if value is not None}
        video = Path(str(record["path"])).name
        builder.add(entry, str(number), video, duration, record["question"], [window], meta, clip)
