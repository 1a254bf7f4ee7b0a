"""QuerYD: captions and times of YouTube videos, from JSON copies of its two pickles."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_prep.convert.durations import read_durations
from data_prep.convert.grounding import RowBuilder
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import read_json, read_lines
from data_prep.progress import progress

NAME = "queryd"
HELP = "QuerYD, its captions and times as JSON"
PATTERN = "{video}.mp4"
PICKLES = (".pkl", ".pickle")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beyond those all grounding sets have."""
    parser.add_argument("--times", type=Path, required=True, help="JSON {video: [[start, end], …]}, parallel to FILE")
    parser.add_argument(
        "--durations",
        type=Path,
        required=True,
        help="seconds by video: JSON, or csv with id and length",
    )
    parser.add_argument("--videos-of-split", type=Path, help="train_list.txt and so on: only its videos")


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows, one per caption, with id ``queryd-SPLIT-VIDEO-INDEX``; keys are ``video-`` and the YouTube id.

    ``annotations`` is ``{key: [[word, …], …]}`` and ``times`` ``{key: [[start, end], …]}`` in the same order. Raises
    `DataError` where the two do not fit.
    """
    for path in (args.annotations, args.times):
        if path.suffix in PICKLES:
            raise DataError(
                f"{path}: a pickle can run anything when it is read; where you trust it, write it as JSON first: "
                "json.dump(pickle.load(open(FILE, 'rb')), open(COPY, 'w'))"
            )
    captions, windows, length = read_json(args.annotations), read_json(args.times), read_durations(args.durations)
    if not isinstance(captions, dict) or not isinstance(windows, dict):
        raise DataError(f"{args.annotations}, {args.times}: expected two objects by video")
    only = None if args.videos_of_split is None else {line.strip() for _, line in read_lines(args.videos_of_split)}
    line = 0
    for key, sentences in progress(captions.items(), NAME, total=len(captions)):
        where = f"{args.annotations}: {key!r}"
        if only is not None and key not in only:
            continue
        spans = windows.get(key)
        if not isinstance(sentences, list) or not isinstance(spans, list) or len(spans) != len(sentences):
            raise DataError(f"{where}: {args.times.name} has not as many times as there are captions")
        video = key.removeprefix("video-")
        for index, (words, window) in enumerate(zip(sentences, spans, strict=True)):
            line += 1
            text = " ".join(map(str, words)) if isinstance(words, list) else words
            entry = Entry(line, f"{where}, caption {index}", {"video": key, "words": words, "times": window})
            builder.add(entry, f"{video}-{index}", video, length.get(video), text, [window])
