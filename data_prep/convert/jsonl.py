"""Any other file: ``--map`` says where each field of a row stands (JSONL, JSON, csv, parquet, `datasets` folders)."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.convert.durations import read_durations
from data_prep.convert.grounding import RowBuilder, VideoNames, numbers_of
from data_prep.convert.ledger import Entry, Ledger
from data_prep.convert.paths import PathError, Step, parse_path, places_of, value_at
from data_prep.convert.records import records_of
from data_prep.convert.times import UNITS, Times, clip_of, number_of, windows_of
from data_prep.errors import DataError
from data_prep.progress import progress
from data_prep.rows import as_record

NAME = "jsonl"
HELP = "any JSONL, JSON, csv, parquet or Hugging Face data set, by --map"
PATTERN = "{video}"
FIELDS = (
    "id",
    "video",
    "query",
    "windows",
    "start",
    "end",
    "duration",
    "frames",
    "fps",
    "clip",
    "clip_start",
    "clip_end",
)
"""What ``--map`` can name, besides ``meta.NAME``."""
LOOKED_AT = 100
"""``--show N`` gives up after so many times N entries."""

Paths = Mapping[str, tuple[Step, ...]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beyond those all grounding sets have."""
    parser.add_argument(
        "--map",
        nargs="+",
        required=True,
        metavar="FIELD=PATH",
        help="where the fields of a row stand: video, query, windows (or start and end), as in query=events[].query "
        f"windows=events[].span; all: {', '.join(FIELDS)} and meta.NAME; @key is the key in an object of records",
    )
    parser.add_argument("--units", choices=UNITS, default="seconds", help="of the windows (default: %(default)s)")
    parser.add_argument("--fps", type=float, help="frames per second of all videos, for --units frames")
    parser.add_argument("--chunk-seconds", type=float, default=5.0, help="length of a chunk (default: %(default)s)")
    parser.add_argument(
        "--chunk-end",
        choices=("inclusive", "exclusive"),
        default="inclusive",
        help="whether the last chunk of a window belongs to it (default: %(default)s)",
    )
    parser.add_argument(
        "--durations", type=Path, help="seconds by video, where the records have none: JSON, or csv with id and length"
    )
    parser.add_argument("--name", default=NAME, help="name of the data set in rows and ids (default: %(default)s)")
    parser.add_argument(
        "--windows-from",
        choices=("file", "clip"),
        help="with clip=PATH or clip_start=PATH: whether windows count from the start of the file or of the clip",
    )
    parser.add_argument(
        "--show", type=int, metavar="N", help="print the first N rows, or why there are none, and write nothing"
    )


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """The rows that the parsed command line asks for."""
    paths = parse_map(args.map)
    if args.units == "frames" and args.fps is None and "fps" not in paths:
        raise DataError("--units frames needs --fps, or fps=PATH in --map")
    if args.fps is not None and (args.fps <= 0 or args.units != "frames"):
        raise DataError("--fps must be positive, and is for --units frames")
    length = read_durations(args.durations) if args.durations is not None else {}
    if args.durations is None and not {"duration", "frames"} & paths.keys():
        raise DataError("how long are the videos? Say duration=PATH or frames=PATH in --map, or --durations FILE")
    if ({"clip", "clip_start"} & paths.keys() == set()) != (args.windows_from is None):
        raise DataError("--windows-from file or clip belongs to a clip in --map: say both, or neither")
    times = Times(args.units, args.fps, args.chunk_seconds, args.chunk_end == "inclusive", args.windows_from == "clip")
    for number, where, record in progress(records_of(args.annotations, args.split), NAME):
        add_record(builder, Entry(number, where, record), paths, times, length)
        if args.show is not None and builder.ledger.accepted + len(builder.ledger.rejected) >= LOOKED_AT * args.show:
            break
        if args.show is not None and builder.ledger.accepted >= args.show:
            break


def show(args: argparse.Namespace) -> int:
    """Print the first ``args.show`` rows that ``--map`` makes, and what was refused on the way; writes nothing."""
    ledger = Ledger(args.unlabelled)
    names = VideoNames(args.video_pattern, args.videos)
    builder = RowBuilder(args.name, args.split, args.annotations, ledger, names)
    convert(args, builder)
    for row in islice(builder.rows, args.show):
        sys.stdout.write(json.dumps(as_record(row), ensure_ascii=False) + "\n")
    for record in islice(ledger.rejected, args.show):
        sys.stdout.write(f"rejected at {record['where']}: {record['reason']} ({record['detail']})\n")
    for kind, tally in [*ledger.repairs.items(), *ledger.notes.items()]:
        sys.stdout.write(f"{tally.count} x {kind}\n")
    return 0 if ledger.accepted else 1


def parse_map(given: Sequence[str]) -> dict[str, tuple[Step, ...]]:
    """Paths by field from ``FIELD=PATH``; raises `DataError` for a field that is unknown, missing, or there twice."""
    paths: dict[str, tuple[Step, ...]] = {}
    for text in given:
        field, equals, path = text.partition("=")
        if not equals or (field not in FIELDS and not re.fullmatch(r"meta\.\w+", field)):
            raise DataError(f"--map {text!r}: expected FIELD=PATH with FIELD one of {', '.join(FIELDS)}, meta.NAME")
        if field in paths:
            raise DataError(f"--map: {field} is there twice")
        paths[field] = parse_path(path)
    for names in (("video",), ("query",)):
        if not set(names) & paths.keys():
            raise DataError(f"--map: {names[0]}=PATH is missing")
    if ("start" in paths) != ("end" in paths) or ("start" in paths and "windows" in paths):
        raise DataError("--map: give windows=PATH, or start=PATH and end=PATH")
    if ("clip_start" in paths) != ("clip_end" in paths) or ("clip" in paths and "clip_start" in paths):
        raise DataError("--map: give clip=PATH, or clip_start=PATH and clip_end=PATH")
    return paths


def add_record(builder: RowBuilder, entry: Entry, paths: Paths, times: Times, lengths: Mapping[str, float]) -> None:
    """Add the rows of one record to ``builder``, or reject it with where it is not as ``paths`` say."""
    try:
        elements = list(places_of(entry.source, paths["query"]))
    except PathError as error:
        builder.ledger.reject(entry, "the record is not as --map says", str(error))
        return
    for places in elements:
        suffix = "".join(f"-{place}" for place, _ in places)
        own = Entry(entry.line, entry.where + (f", element {suffix[1:]}" if suffix else ""), entry.source)
        try:
            fields = {name: value_at(own.source, path, places) for name, path in paths.items()}
            _add(builder, own, fields, times, lengths, suffix, any(step is None for step in paths.get("id", ())))
        except PathError as error:
            builder.ledger.reject(own, "the record is not as --map says", str(error))


def _add(
    builder: RowBuilder,
    entry: Entry,
    fields: dict[str, Any],
    times: Times,
    lengths: Mapping[str, float],
    suffix: str,
    own_id: bool,
) -> None:
    video = str(fields["video"])
    fps = number_of(fields["fps"]) if "fps" in fields else times.fps
    duration: Any = fields.get("duration", lengths.get(Path(video).stem, lengths.get(video)))
    if "frames" in fields:
        frames = number_of(fields["frames"])
        if frames is None or not fps:
            raise PathError(f"{fields['frames']!r} frames at {fps!r} per second are no duration")
        duration = frames / fps
    seconds = number_of(duration)
    clip = None
    if "clip" in fields or "clip_start" in fields:
        clip = clip_of(fields)
        if seconds is None and clip is not None:
            seconds = clip[1]
            builder.ledger.note(entry, "length of the file unknown: the end of its clip stands for it")
    offset = clip[0] if clip is not None and times.from_clip else 0.0
    length = seconds if clip is None or not times.from_clip else clip[1] - clip[0]
    windows: Any = windows_of(fields)
    if windows is not None and all(numbers_of(window) and len(window) == 2 for window in windows):
        windows = [times.seconds(window, fps, length) for window in windows]
        if times.units == "chunks" and seconds is not None:
            windows = [[start, min(end, seconds)] for start, end in windows]
        windows = [[round(time + offset, 6) for time in window] if offset else window for window in windows]
    key = str(fields["id"]) + ("" if own_id else suffix) if "id" in fields else f"{entry.line}{suffix}"
    meta = {name.removeprefix("meta."): value for name, value in fields.items() if name.startswith("meta.")}
    builder.add(entry, key, video, seconds, fields["query"], [] if windows is None else windows, meta, clip)
