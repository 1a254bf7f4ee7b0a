"""EPIC-KITCHENS-100: the official csv of action segments, or the frame-based csv of the C2 challenge."""

from __future__ import annotations

import argparse
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

from data_prep.convert.detection import DetectionBuilder
from data_prep.convert.ledger import Entry, Ledger
from data_prep.errors import DataError
from data_prep.files import read_csv
from data_prep.progress import progress

NAME = "epic-kitchens-100"
LABELS = ("verb", "noun", "action")
C2_FPS = 30.0
"""The C2 challenge's csv counts frames at this rate, whatever the video's own."""
CLOCK = re.compile(r"(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beyond those all detection sets have."""
    parser.add_argument(
        "--durations",
        type=Path,
        required=True,
        help="EPIC_100_video_info.csv (columns video_id, duration) or C2's video_lengths.csv (video, frames)",
    )
    parser.add_argument("--label", choices=LABELS, default="verb", help="the class to detect (default: %(default)s)")
    parser.add_argument(
        "--classes",
        type=Path,
        help="EPIC_100_verb_classes.csv or EPIC_100_noun_classes.csv (columns id, key): labels become names",
    )


def convert(args: argparse.Namespace, ledger: Ledger) -> dict[str, Any]:
    """The database that the parsed command line asks for."""
    if args.split is None:
        raise DataError(f"{args.annotations}: the file names no subset; pass --split train or --split validation")
    return read(args.annotations, args.durations, args.split, ledger, args.label, args.classes, args.segments)


def read(
    annotations: Path,
    durations: Path,
    split: str,
    ledger: Ledger,
    label: str = "verb",
    classes: Path | None = None,
    segment_rule: str = "clip",
) -> dict[str, Any]:
    """The database of one csv, each annotation with ``verb_class``, ``noun_class`` and ``narration_id``.

    ``label`` is the class id as text, the class's key where ``classes`` lists it, and ``VERB,NOUN`` (ids) for
    actions. The narration is kept where the file has it. Raises `DataError` for a malformed file, a file
    without classes (the test set), a repeated narration id and an unknown class id.
    """
    if label == "action" and classes is not None:
        raise DataError("--classes names verbs or nouns; with --label action the label is 'VERB,NOUN' in ids")
    lengths = read_lengths(durations)
    names = _read_classes(classes) if classes is not None else None
    builder = DetectionBuilder(ledger, segment_rule)
    first_seen: dict[str, int] = {}
    for line, record in progress(_read_segments(annotations), NAME):
        entry = Entry(line, f"{annotations}:{line}", record)
        identity = record["narration_id"]
        if identity in first_seen:
            raise DataError(f"{entry.where}: narration_id {identity!r} is already used in line {first_seen[identity]}")
        first_seen[identity] = line
        official = "video_id" in record
        video = record["video_id"] if official else record["video"]
        verb, noun = ("verb_class", "noun_class") if official else ("verb", "noun")
        try:
            ids = {"verb_class": int(record[verb]), "noun_class": int(record[noun])}
            segment = _official_segment(record) if official else _c2_segment(record)
        except ValueError as error:
            raise DataError(f"{entry.where}: {error}") from error
        if video not in builder.database:
            if video not in lengths:
                ledger.reject(entry, "no duration is known for the video", video)
                continue
            builder.add_video(entry.where, video, split, lengths[video])
        if label == "action":
            text = f"{ids['verb_class']},{ids['noun_class']}"
        else:
            number = ids[f"{label}_class"]
            if names is not None and number not in names:
                raise DataError(f"{classes}: class {number} of {entry.where} is not listed; is it the {label} list?")
            text = str(number) if names is None else names[number]
        extra: dict[str, Any] = {} if label == "action" else {"label_id": ids[f"{label}_class"]}
        if "narration" in record:
            extra["narration"] = record["narration"]
        if record.get("narration_timestamp") == "":
            ledger.note(entry, "no narration timestamp")
        if record.get("all_noun_classes", "").count(",") > 0:
            ledger.note(entry, "several nouns, the first is the class")
        builder.add_segment(entry, video, segment, text, **ids, **extra, narration_id=identity)
    return builder.database


def read_lengths(path: Path) -> dict[str, float]:
    """Seconds of each video, from the columns video_id and duration, or video and frames (at 30 fps)."""
    lengths = {}
    rows = read_csv(path, ())
    if rows and not ({"video_id", "duration"} <= rows[0][1].keys() or {"video", "frames"} <= rows[0][1].keys()):
        raise DataError(f"{path}:1: expected the columns video_id and duration, or video and frames")
    for line, record in rows:
        try:
            if "video_id" in record:
                lengths[record["video_id"]] = float(record["duration"])
            else:
                lengths[record["video"]] = float(record["frames"]) / C2_FPS
        except ValueError as error:
            raise DataError(f"{path}:{line}: not a length ({error})") from error
    return lengths


def _read_segments(path: Path) -> list[tuple[int, dict[str, str]]]:
    rows = read_csv(path, ("narration_id",))
    columns = rows[0][1].keys() if rows else set()
    official = {"video_id", "start_timestamp", "stop_timestamp"}
    if official <= columns and not {"verb_class", "noun_class"} <= columns:
        raise DataError(f"{path}:1: no columns verb_class and noun_class; the test set's classes are not public")
    if not official <= columns and not {"video", "start", "stop", "verb", "noun"} <= columns:
        raise DataError(
            f"{path}:1: expected the columns video_id, start_timestamp, stop_timestamp, verb_class, "
            f"noun_class or video, start, stop, verb, noun; the header is {', '.join(columns)}"
        )
    return rows


def _read_classes(path: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for line, record in read_csv(path, ("id", "key")):
        if not record["id"].isdigit() or int(record["id"]) in names:
            raise DataError(f"{path}:{line}: id {record['id']!r} is not a new class number")
        names[int(record["id"])] = record["key"]
    return names


def _official_segment(record: dict[str, str]) -> list[float]:
    return [_clock_seconds(record["start_timestamp"]), _clock_seconds(record["stop_timestamp"])]


def _c2_segment(record: dict[str, str]) -> list[float]:
    return [int(record["start"]) / C2_FPS, int(record["stop"]) / C2_FPS]


def _clock_seconds(text: str) -> float:
    """Seconds of ``HH:MM:SS.ss``, added in decimal so that 00:17:47.56 is 1067.56."""
    match = CLOCK.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time HH:MM:SS.ss")
    return float(int(match[1]) * 3600 + int(match[2]) * 60 + Decimal(match[3]))
