"""ActivityNet Captions: one JSON object ``{video: {duration, timestamps, sentences}}`` per split."""

from __future__ import annotations

import argparse

from data_prep.convert.grounding import RowBuilder
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import read_json
from data_prep.progress import progress

NAME = "activitynet-captions"
HELP = "ActivityNet Captions (JSON)"
PATTERN = "{video}.mp4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments beyond those all grounding sets have: the file holds the durations."""


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows of ActivityNet Captions, one per sentence, with id ``activitynet-captions-SPLIT-VIDEO-INDEX``.

    Raises `DataError` for a malformed file, a video listed twice, or as many times as sentences not given.
    """
    database = read_json(args.annotations)
    if not isinstance(database, dict):
        raise DataError(f"{args.annotations}: expected an object of videos, found {type(database).__name__}")
    line = 0
    for video, record in progress(database.items(), NAME, total=len(database)):
        where = f"{args.annotations}: video {video!r}"
        if not isinstance(record, dict) or not {"duration", "timestamps", "sentences"} <= record.keys():
            raise DataError(f"{where}: expected the fields duration, timestamps and sentences")
        times, sentences = record["timestamps"], record["sentences"]
        if not isinstance(times, list) or not isinstance(sentences, list) or len(times) != len(sentences):
            raise DataError(f"{where}: timestamps and sentences must be two lists of the same length")
        for index, (window, sentence) in enumerate(zip(times, sentences, strict=True)):
            line += 1
            source = {
                "video": video,
                "index": index,
                "duration": record["duration"],
                "timestamp": window,
                "sentence": sentence,
            }
            entry = Entry(line, f"{where}, sentence {index}", source)
            builder.add(entry, f"{video}-{index}", video, record["duration"], sentence, [window])
