"""Time-R1's training set (TimeRFT, ``train_2k5.json``): one query a record, some in a clip of a longer file."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from data_prep.convert.grounding import RowBuilder, numbers_of
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import iter_records
from data_prep.progress import progress

NAME = "time-r1"
HELP = "Time-R1's training set train_2k5.json (JSON)"
PATTERN = "{video}"
CUT = re.compile(r"_\d+:\d\d:\d\d:\d+_\d+:\d\d:\d\d:\d+\.\w+$")
"""The end of a file name that says from where to where the file was cut: the clip is the file."""
NONSENSE = 4 / 3
"""An end that lies beyond that many times the video's length is no time: seven of the set are 141 · 60 and the like."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments beyond those all grounding sets have: the file holds the durations."""


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows of Time-R1's set, with id ``time-r1-SPLIT-NUMBER`` (place in the file from 1).

    ``video_start`` and ``video_end`` become the row's clip unless the file was cut there already, which its name says.
    The length of a file that was not cut is not in the data: its clip's end stands for it. ``difficulty`` is the IoU in
    percent of ``pred`` with the window, so high is easy; both go to ``meta``.
    """
    for number, where, record in progress(iter_records(args.annotations), NAME):
        if not {"video", "duration", "timestamp", "sentence"} <= record.keys():
            raise DataError(
                f"{where}: expected the fields video, duration, timestamp and sentence; is it train_2k5.json?"
            )
        entry = Entry(number, where, record)
        window, length = numbers_of(record["timestamp"]), numbers_of([record["duration"]])
        if window is None or len(window) != 2 or length is None:
            builder.ledger.reject(
                entry, "the duration or the window is no number of seconds", repr(record["timestamp"])
            )
            continue
        duration = length[0]
        if window[-1] > NONSENSE * duration:
            builder.ledger.reject(
                entry, "the window's end is far beyond the video", f"{window} in a video of {duration} s"
            )
            continue
        video, clip = Path(str(record["video"])).name, None
        bounds = numbers_of([record.get("video_start"), record.get("video_end")])
        meta: dict[str, Any] = {name: record[name] for name in ("qid", "difficulty", "pred") if name in record}
        if bounds is not None and not CUT.search(video):
            clip, duration = (bounds[0], bounds[1]), bounds[1]
            window = [round(time + bounds[0], 6) for time in window]
            builder.ledger.note(entry, "length of the file unknown: the end of its clip stands for it")
        builder.add(entry, str(number), video, duration, record["sentence"], [window], meta, clip)
