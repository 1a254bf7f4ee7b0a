"""THUMOS14: ActionFormer's or VSGN's JSON, the csv of annotations, or the official folder of text files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.convert.detection import DetectionBuilder, require_videos, select_subset
from data_prep.convert.ledger import Entry, Ledger
from data_prep.errors import DataError
from data_prep.files import read_csv, read_json, read_lines
from data_prep.progress import progress

NAME = "thumos14"
CLASSES = (
    "BaseballPitch",
    "BasketballDunk",
    "Billiards",
    "CleanAndJerk",
    "CliffDiving",
    "CricketBowling",
    "CricketShot",
    "Diving",
    "FrisbeeCatch",
    "GolfSwing",
    "HammerThrow",
    "HighJump",
    "JavelinThrow",
    "LongJump",
    "PoleVault",
    "Shotput",
    "SoccerPenalty",
    "TennisSwing",
    "ThrowDiscus",
    "VolleyballSpiking",
)
"""The 20 classes; the place in this order is the ``label_id`` of ActionFormer's file."""
AMBIGUOUS = "Ambiguous"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beyond those all detection sets have."""
    parser.add_argument(
        "--durations",
        type=Path,
        help="test_video_info.csv or val_video_info.csv (video, fps, count), for annotations without lengths",
    )


def convert(args: argparse.Namespace, ledger: Ledger) -> dict[str, Any]:
    """The database that the parsed command line asks for."""
    return read(args.annotations, args.durations, args.split, ledger, args.segments)


def read(
    annotations: Path, durations: Path | None, split: str | None, ledger: Ledger, segment_rule: str = "clip"
) -> dict[str, Any]:
    """The database of subset ``split`` (None: all of a JSON file), with ``fps`` and ``label_id``.

    Segments of the 21st type Ambiguous are rejected, and a video that has only these is left out. In csv and
    text files, which name no subset, all videos are of ``split``. Raises `DataError` for a malformed file, an
    unknown class or subset, and a video without a duration.
    """
    lengths = read_lengths(durations) if durations is not None else {}
    builder = DetectionBuilder(ledger, segment_rule)
    subsets: set[str] = set()
    for entry, video, record in progress(_records(annotations, split), NAME):
        subsets.add(record["subset"])
        if not select_subset(record["subset"], split):
            continue
        label = record["label"]
        if label == AMBIGUOUS:
            ledger.reject(entry, "Ambiguous: none of the 20 classes")
            continue
        if label not in CLASSES:
            raise DataError(f"{entry.where}: {label!r} is not a class of THUMOS14")
        if video not in builder.database:
            duration, fps = lengths.get(video, (record["duration"], record["fps"]))
            facts = {} if fps is None else {"fps": fps}
            builder.add_video(entry.where, video, record["subset"].lower(), duration, **facts)
        builder.add_segment(entry, video, record["segment"], label, label_id=CLASSES.index(label))
    require_videos(builder.database, annotations, split, subsets)
    return builder.database


def read_lengths(path: Path) -> dict[str, tuple[float, float]]:
    """``(seconds, frames per second)`` of each video from the columns video, fps and count."""
    lengths = {}
    for line, record in read_csv(path, ("video", "fps", "count")):
        try:
            fps, frames = float(record["fps"]), float(record["count"])
            lengths[record["video"]] = (frames / fps, fps)
        except (ValueError, ZeroDivisionError) as error:
            raise DataError(f"{path}:{line}: fps and count must be positive numbers ({error})") from error
    return lengths


def _records(path: Path, split: str | None) -> Iterator[tuple[Entry, str, dict[str, Any]]]:
    """Every annotation of a file or folder as ``(entry, video, {subset, duration, fps, segment, label})``."""
    if path.is_dir():
        return _from_text_files(path, _needed(split, path))
    if path.name.removesuffix(".gz").endswith(".json"):
        return _from_json(path)
    return _from_csv(path, _needed(split, path))


def _from_json(path: Path) -> Iterator[tuple[Entry, str, dict[str, Any]]]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("database"), dict):
        raise DataError(f"{path}: expected an object with 'database'")
    line = 0
    for video, record in content["database"].items():
        where = f"{path}: video {video!r}"
        if not isinstance(record, dict) or not {"subset", "annotations"} <= record.keys():
            raise DataError(f"{where}: expected the fields subset and annotations")
        for index, annotation in enumerate(record["annotations"]):
            line += 1
            if not isinstance(annotation, dict) or not {"segment", "label"} <= annotation.keys():
                raise DataError(f"{where}, annotation {index}: expected the fields segment and label")
            entry = Entry(line, f"{where}, annotation {index}", {"video": video, **annotation})
            yield (
                entry,
                video,
                {
                    "subset": record["subset"],
                    "duration": record.get("duration"),
                    "fps": record.get("fps"),
                    "segment": annotation["segment"],
                    "label": annotation["label"],
                },
            )


def _from_csv(path: Path, split: str) -> Iterator[tuple[Entry, str, dict[str, Any]]]:
    for line, record in read_csv(path, ("video", "type", "start", "end")):
        entry = Entry(line, f"{path}:{line}", record)
        segment = _seconds(entry, record["start"], record["end"])
        yield entry, record["video"], _record(split, segment, record["type"])


def _from_text_files(folder: Path, split: str) -> Iterator[tuple[Entry, str, dict[str, Any]]]:
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise DataError(f"{folder}: no CLASS_val.txt or CLASS_test.txt in it")
    for path in files:
        label = path.stem.rsplit("_", 1)[0]
        for line, text in read_lines(path):
            entry = Entry(line, f"{path}:{line}", text)
            fields = text.split()
            if len(fields) != 3:
                raise DataError(f"{entry.where}: expected 'VIDEO START END', found {text!r}")
            yield entry, fields[0], _record(split, _seconds(entry, fields[1], fields[2]), label)


def _record(split: str, segment: list[float], label: str) -> dict[str, Any]:
    return {"subset": split, "duration": None, "fps": None, "segment": segment, "label": label}


def _seconds(entry: Entry, start: str, end: str) -> list[float]:
    try:
        return [float(start), float(end)]
    except ValueError as error:
        raise DataError(f"{entry.where}: start and end must be seconds ({error})") from error


def _needed(split: str | None, path: Path) -> str:
    if split is None:
        raise DataError(f"{path}: the file names no subset; pass --split test or --split validation")
    return split
