"""ActivityNet-1.3: the official JSON, or the flat JSON of BSN with its csv of durations and subsets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from data_prep.convert.detection import DetectionBuilder, require_videos, select_subset
from data_prep.convert.ledger import Entry, Ledger
from data_prep.errors import DataError
from data_prep.files import read_csv, read_json
from data_prep.progress import progress

NAME = "activitynet-1.3"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beyond those all detection sets have."""
    parser.add_argument(
        "--durations",
        type=Path,
        help="video_info_new.csv (columns video, subset), for BSN's anet_anno_action.json",
    )


def convert(args: argparse.Namespace, ledger: Ledger) -> dict[str, Any]:
    """The database that the parsed command line asks for."""
    return read(args.annotations, args.durations, args.split, ledger, args.segments)


def read(
    annotations: Path, durations: Path | None, split: str | None, ledger: Ledger, segment_rule: str = "clip"
) -> dict[str, Any]:
    """The database of subset ``split`` (None: all), ids without ``v_``.

    Videos without annotations (the testing subset) are kept. Raises `DataError` for a malformed file, an
    unknown subset, or BSN's JSON without ``durations``.
    """
    content = read_json(annotations)
    if not isinstance(content, dict):
        raise DataError(f"{annotations}: expected an object, found {type(content).__name__}")
    database = content["database"] if "database" in content else _from_bsn(annotations, content, durations)
    builder = DetectionBuilder(ledger, segment_rule)
    subsets: set[str] = set()
    line = 0
    for video, record in progress(database.items(), NAME, total=len(database)):
        where = f"{annotations}: video {video!r}"
        if not isinstance(record, dict) or not {"duration", "subset", "annotations"} <= record.keys():
            raise DataError(f"{where}: expected the fields duration, subset and annotations")
        subsets.add(record["subset"])
        selected = select_subset(record["subset"], split)
        if selected:
            builder.add_video(where, video, record["subset"].lower(), record["duration"])
        for index, annotation in enumerate(record["annotations"]):
            line += 1
            if not isinstance(annotation, dict) or not {"segment", "label"} <= annotation.keys():
                raise DataError(f"{where}, annotation {index}: expected the fields segment and label")
            if selected:
                entry = Entry(line, f"{where}, annotation {index}", {"video": video, **annotation})
                builder.add_segment(entry, video, annotation["segment"], annotation["label"])
        labels = {annotation["label"] for annotation in record["annotations"]}
        if selected and len(labels) > 1:
            ledger.note(Entry(line, where, None), "video with several classes")
        if selected and not labels:
            ledger.note(Entry(line, where, None), "video without annotations")
    require_videos(builder.database, annotations, split, subsets)
    return builder.database


def _from_bsn(path: Path, content: dict[str, Any], durations: Path | None) -> dict[str, Any]:
    """BSN's ``{v_ID: {duration_second, annotations}}`` in the official layout."""
    if durations is None:
        raise DataError(
            f"{path}: no 'database' in it, so it is not the official file; for BSN's anet_anno_action.json "
            "pass --durations video_info_new.csv, which has the subsets"
        )
    subsets = {record["video"]: record["subset"] for _, record in read_csv(durations, ("video", "subset"))}
    database = {}
    for video, record in content.items():
        if not isinstance(record, dict) or not {"duration_second", "annotations"} <= record.keys():
            raise DataError(f"{path}: video {video!r}: expected the fields duration_second and annotations")
        if video not in subsets:
            raise DataError(f"{durations}: video {video!r} of {path.name} is not listed")
        database[video.removeprefix("v_")] = {
            "duration": record["duration_second"],
            "subset": subsets[video],
            "annotations": record["annotations"],
        }
    return database
