"""``invert-rl check-videos``: decode every file once in worker processes and write the manifest."""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.errors import CRASHED, MISSING, OK, TIMEOUT, DataError
from data_prep.manifest import (
    DURATION_TOLERANCE,
    append_record,
    duration_mismatches,
    open_manifest,
    read_manifest,
)
from data_prep.probe import VideoRecord, probe
from data_prep.progress import progress
from data_prep.ray_engine import add_engine_argument, run_each_on_ray
from data_prep.rows import read_rows
from data_prep.workers import TIMEOUT_SECONDS, Failure, run_each

SHOWN = 20
"""How many broken videos the text summary lists; ``--json`` and the manifest have all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl check-videos``."""
    parser.description = (
        "Decode every video that DATA needs, each within a time limit, and write a manifest for training and "
        "evaluation. Exit code: 0 if all decode and have the annotated length, 1 if not, 2 for wrong usage "
        "or unreadable DATA."
    )
    parser.add_argument("data", type=Path, metavar="DATA.jsonl", help="rows whose videos are checked")
    parser.add_argument("--videos", type=Path, required=True, metavar="DIR", help="the video folder")
    parser.add_argument(
        "--manifest", type=Path, help="where to write (default: DATA.manifest.jsonl beside the data); resumed"
    )
    parser.add_argument(
        "--workers", type=_positive_int, metavar="N", help="processes (default: one per core, of all machines with ray)"
    )
    parser.add_argument(
        "--timeout",
        type=_positive_seconds,
        default=TIMEOUT_SECONDS,
        help="seconds per file (default: %(default)s)",
    )
    parser.add_argument(
        "--duration-tolerance",
        type=_positive_seconds,
        default=DURATION_TOLERANCE,
        help="seconds by which decoded and annotated length may differ (default: %(default)s)",
    )
    add_engine_argument(parser)
    parser.add_argument("--recheck", action="store_true", help="decode files that are unchanged since the last check")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Check the videos; returns the exit code described in ``--help``."""
    began = time.monotonic()
    try:
        rows = read_rows(args.data)
        if not args.videos.is_dir():
            raise DataError(f"{args.videos}: no such video folder")
        manifest_path = args.manifest or args.data.with_suffix(".manifest.jsonl")
        names = list(dict.fromkeys(row.video for row in rows))
        checked, reused = check_files(
            args.videos, names, manifest_path, args.workers, args.timeout, args.recheck, args.engine
        )
    except (DataError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    records = {**reused, **checked}
    broken: dict[str, list[dict[str, str]]] = {}
    for name in names:
        if records[name].status != OK:
            entry = {"video": name, "reason": records[name].reason}
            broken.setdefault(records[name].status, []).append(entry)
    mismatches = [vars(found) for found in duration_mismatches(rows, records, args.duration_tolerance)]
    summary = {
        "videos": len(names),
        "ok": sum(records[name].status == OK for name in names),
        "checked": len(checked),
        "reused": len(reused),
        "broken": broken,
        "duration_mismatches": mismatches,
        "manifest": str(manifest_path),
        "seconds": round(time.monotonic() - began, 3),
    }
    sys.stdout.write(json.dumps(summary, ensure_ascii=False) + "\n" if args.json else _as_text(summary))
    return 1 if broken or mismatches else 0


def check_files(
    folder: Path,
    names: Sequence[str],
    manifest_path: Path,
    workers: int | None = 1,
    timeout: float = TIMEOUT_SECONDS,
    recheck: bool = False,
    engine: str = "local",
) -> tuple[dict[str, VideoRecord], dict[str, VideoRecord]]:
    """Decode the videos ``names`` of ``folder`` and append to the manifest; returns ``(checked, reused)``.

    A file whose size and time are those in the manifest is reused unless ``recheck``; one that is missing,
    ran out of time or crashed its decoder is always tried again. ``timeout`` is seconds per file, ``workers`` None one
    process per core, of this machine or (``engine`` "ray") of the cluster.
    """
    reused: dict[str, VideoRecord] = {}
    if manifest_path.exists() and not recheck:
        known = read_manifest(manifest_path)
        reused = {name: known[name] for name in names if name in known and _unchanged(folder / name, known[name])}
    todo = [name for name in names if name not in reused]
    checked: dict[str, VideoRecord] = {}
    with open_manifest(manifest_path) as manifest:
        for name, outcome in progress(
            probe_each(folder, todo, workers, timeout, engine), "check-videos", total=len(todo)
        ):
            checked[name] = outcome
            append_record(manifest, outcome)
    return checked, reused


def probe_each(
    folder: Path, names: Sequence[str], workers: int | None, timeout: float, engine: str = "local"
) -> Iterator[tuple[str, VideoRecord]]:
    """Yield ``(name, VideoRecord)`` for each video in the order of completion; see `check_files`."""
    if not names:
        return
    job, imports = functools.partial(probe, str(folder.absolute())), ("data_prep.decode",)
    for name, outcome in (
        run_each_on_ray(job, names, workers, timeout, imports, folders=[folder.absolute()])
        if engine == "ray"
        else run_each(job, names, workers or os.cpu_count() or 1, timeout, imports)
    ):
        if isinstance(outcome, Failure):
            status = TIMEOUT if outcome.timed_out else CRASHED
            outcome = VideoRecord(name, status, f"decoding: {outcome.reason}")
        yield name, outcome


def _unchanged(path: Path, record: VideoRecord) -> bool:
    if record.status in (MISSING, TIMEOUT, CRASHED):
        return False
    try:
        info = path.stat()
    except OSError:
        return False
    return (info.st_size, info.st_mtime_ns) == (record.bytes, record.mtime)


def _as_text(summary: dict[str, Any]) -> str:
    lines = [
        f"{summary['ok']} of {summary['videos']} videos ok "
        f"({summary['checked']} decoded, {summary['reused']} unchanged since the last check, "
        f"{summary['seconds']:.1f} s)",
        f"manifest: {summary['manifest']}",
    ]
    for status, entries in summary["broken"].items():
        lines.append(f"BROKEN, {status}: {len(entries)}")
        lines += [f"  {entry['video']}: {entry['reason']}" for entry in entries[:SHOWN]]
        if len(entries) > SHOWN:
            lines.append(f"  … and {len(entries) - SHOWN} more, in the manifest")
    mismatches = summary["duration_mismatches"]
    if mismatches:
        lines.append(f"LENGTH DISAGREES with the annotation: {len(mismatches)}")
        lines += [
            f"  {entry['video']}: annotated {entry['annotated']:.2f} s, decoded {entry['decoded']:.2f} s"
            for entry in mismatches[:SHOWN]
        ]
        if len(mismatches) > SHOWN:
            lines.append(f"  … and {len(mismatches) - SHOWN} more, with --json")
    return "\n".join(lines) + "\n"


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _positive_seconds(text: str) -> float:
    value = float(text)
    if not value > 0 or math.isnan(value):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value
