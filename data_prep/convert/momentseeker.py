"""MomentSeeker: text queries with their intervals in long videos."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_prep.convert.durations import read_durations
from data_prep.convert.grounding import RowBuilder
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import iter_records
from data_prep.progress import progress

NAME = "momentseeker"
HELP = "MomentSeeker's text queries, t2v.json (JSON)"
PATTERN = "{video}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beyond those all grounding sets have."""
    parser.add_argument(
        "--durations",
        type=Path,
        required=True,
        help="seconds by video: JSON, or csv with id and length",
    )


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows, one per query with all its windows, with id ``momentseeker-SPLIT-NUMBER`` (place in the file from 1).

    A query that an image or another video is a part of (ti2v.json, tv2v.json) is rejected. ``task`` goes to ``meta``.
    """
    length = read_durations(args.durations)
    for number, where, record in progress(iter_records(args.annotations), NAME):
        if not {"qry_text", "src_video_path", "answering_time_interval"} <= record.keys():
            raise DataError(f"{where}: expected qry_text, src_video_path and answering_time_interval; is it t2v.json?")
        entry = Entry(number, where, record)
        if record.get("qry_img_path") or record.get("qry_video_path"):
            builder.ledger.reject(entry, "an image or a video is a part of the query", str(record["qry_text"]))
            continue
        video = str(record["src_video_path"]).removeprefix("./").removeprefix("videos/")
        meta = {"task": record["task"]} if isinstance(record.get("task"), str) else {}
        windows = record["answering_time_interval"]
        builder.add(entry, str(number), video, length.get(Path(video).stem), record["qry_text"], windows, meta)
