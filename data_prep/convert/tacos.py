"""TACoS as 2D-TAN publishes it: an object by video with windows in frames."""

from __future__ import annotations

import argparse

from data_prep.convert.grounding import RowBuilder, numbers_of
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import read_json
from data_prep.progress import progress

NAME = "tacos"
HELP = "TACoS with frames and fps, as 2D-TAN publishes it (JSON)"
PATTERN = "{video}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments beyond those all grounding sets have: the file holds frame rates and counts."""


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows of TACoS, one per sentence, with id ``tacos-SPLIT-VIDEO-INDEX``; seconds are frames over fps.

    The same sentence and window of a video occur several times (567 of the 4,001 test rows): they are rows of their
    own, as published. Raises `DataError` for another layout.
    """
    database = read_json(args.annotations)
    if not isinstance(database, dict):
        raise DataError(f"{args.annotations}: expected an object of videos, found {type(database).__name__}")
    line = 0
    for video, record in progress(database.items(), NAME, total=len(database)):
        where = f"{args.annotations}: video {video!r}"
        if not isinstance(record, dict) or not {"timestamps", "sentences", "fps", "num_frames"} <= record.keys():
            raise DataError(f"{where}: expected the fields timestamps, sentences, fps and num_frames")
        counts = numbers_of([record["fps"], record["num_frames"]])
        if counts is None or counts[0] <= 0:
            raise DataError(f"{where}: fps and num_frames must be positive numbers")
        windows, sentences = record["timestamps"], record["sentences"]
        if not isinstance(windows, list) or not isinstance(sentences, list) or len(windows) != len(sentences):
            raise DataError(f"{where}: timestamps and sentences must be two lists of the same length")
        fps, frames = counts
        for index, (window, sentence) in enumerate(zip(windows, sentences, strict=True)):
            line += 1
            source = {"video": video, "index": index, "timestamp": window, "sentence": sentence, "fps": fps}
            places = numbers_of(window)
            seconds = window if places is None else [round(frame / fps, 6) for frame in places]
            meta = {"annotated_frames": window}
            entry = Entry(line, f"{where}, sentence {index}", source)
            builder.add(entry, f"{video}-{index}", video, frames / fps, sentence, [seconds], meta)
