"""NExT-GQA: questions of NExT-QA with the windows that their answers need."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_prep.convert.grounding import RowBuilder
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import read_csv, read_json
from data_prep.progress import progress

NAME = "next-gqa"
HELP = "NExT-GQA, the grounding part (csv of questions, JSON of windows)"
PATTERN = "{video}.mp4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beyond those all grounding sets have."""
    parser.add_argument("--windows", type=Path, required=True, help="gsub_val.json or gsub_test.json")
    parser.add_argument("--paths", type=Path, help="map_vid_vidorID.json: videos lie in VidOR's folders")


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows of NExT-GQA, one per question with all its windows, with id ``next-gqa-SPLIT-VIDEO-QID``.

    The length is frames over fps (the file's own is rounded to whole seconds); options and answer go to ``meta``.
    A question without windows is rejected. Raises `DataError` for another layout.
    """
    grounded = read_json(args.windows)
    folders = read_json(args.paths) if args.paths is not None else {}
    if not isinstance(grounded, dict) or not isinstance(folders, dict):
        raise DataError(f"{args.windows}: expected an object of videos")
    columns = ("video_id", "frame_count", "question", "answer", "qid", "type", "a0", "a1", "a2", "a3", "a4")
    for line, record in progress(read_csv(args.annotations, columns), NAME):
        video, qid = record["video_id"], record["qid"]
        entry = Entry(line, f"{args.annotations}:{line}", record)
        found = grounded.get(video)
        located = found.get("location") if isinstance(found, dict) else None
        if not isinstance(found, dict) or not isinstance(located, dict) or qid not in located:
            builder.ledger.reject(entry, "the question has no windows", f"video {video}, qid {qid}")
            continue
        try:
            duration = int(record["frame_count"]) / float(found["fps"])
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise DataError(f"{args.windows}: video {video}: fps or frame_count is no number ({error})") from error
        meta = {
            "options": [record[f"a{index}"] for index in range(5)],
            "answer": record["answer"],
            "type": record["type"],
        }
        name = str(folders.get(video, video))
        builder.add(entry, f"{video}-{qid}", name, duration, record["question"], located[qid], meta)
