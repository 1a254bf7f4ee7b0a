"""``invert-rl cache-frames``: decode the videos of a data file ahead of training, into a frame store."""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import DataError
from data_prep.progress import progress
from data_prep.ray_engine import add_engine_argument, run_each_on_ray
from data_prep.rows import Window, read_rows
from data_prep.workers import TIMEOUT_SECONDS, Failure, run_each
from invert_rl.video.errors import VideoError
from invert_rl.video.quarantine import Quarantine
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings

if TYPE_CHECKING:
    from invert_rl.video.store import FrameStore

SHOWN = 20
"""How many broken videos the text summary lists."""

Job = tuple[VideoRef, tuple[Window, ...]]
"""A video and the windows of its rows, in seconds of the video."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl cache-frames``: a field of `FrameSettings` is an option of the same name."""
    parser.description = (
        "Decode every video that DATA needs, and the parts that its windows need, once into a frame store "
        "for training and evaluation. What is there already stays; several of these may run at a time on one "
        "store. Exit code: 0 if all is stored, 1 if not, 2 for wrong usage or unreadable DATA."
    )
    parser.add_argument("data", type=Path, metavar="DATA.jsonl", help="rows whose videos are decoded")
    parser.add_argument("--videos", type=Path, required=True, metavar="DIR", help="the video folder")
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="where the frames are kept")
    parser.add_argument(
        "--decode-workers",
        "--workers",
        dest="workers",
        type=int,
        metavar="N",
        help="processes (default: one per core, of all machines with ray)",
    )
    add_engine_argument(parser)
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_SECONDS, help="seconds per video (default: %(default)s)"
    )
    parser.add_argument(
        "--broken", type=Path, metavar="FILE.json", help="write the videos left out and why to this file"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    for field in fields(FrameSettings):
        assert field.default is not MISSING
        parser.add_argument(
            f"--{field.name}",
            type=type(field.default),
            default=field.default,
            help="must equal the run's (default: %(default)s)",
        )


def run(args: argparse.Namespace) -> int:
    """Fill the store; returns the exit code described in ``--help``."""
    from invert_rl.video.store import FrameStore

    began = time.monotonic()
    try:
        settings = FrameSettings(**{field.name: getattr(args, field.name) for field in fields(FrameSettings)})
        rows = read_rows(args.data)
        if not args.videos.is_dir():
            raise DataError(f"{args.videos}: no such video folder")
        args.store.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    windows: dict[VideoRef, dict[Window, None]] = {}
    for row in rows:
        windows.setdefault(VideoRef(row.video, clip=row.clip), {}).update(dict.fromkeys(row.clip_windows))
    videos, directory = args.videos.absolute(), args.store.absolute()
    store = FrameStore(videos, settings, memory_mb=0, directory=directory, timeout=args.timeout)
    jobs = [(video, tuple(spans)) for video, spans in windows.items()]
    summary: dict[str, Any] = {"videos": len(jobs), "store": str(args.store)}
    try:
        stored, quarantine = fill(store, jobs, args.workers, args.timeout, args.engine)
    except OSError as error:
        sys.stderr.write(
            f"error: {args.store}: {error.strerror or error}; what was stored so far is whole, "
            "make room or choose another --store and run the command again\n"
        )
        return 1
    if args.broken is not None:
        quarantine.write(args.broken)
    summary |= {
        "stored": stored,
        "broken": quarantine.videos,
        "bytes": sum(file.stat().st_size for file in args.store.rglob("*.safetensors")),
        "seconds": round(time.monotonic() - began, 3),
    }
    sys.stdout.write(json.dumps(summary, ensure_ascii=False) + "\n" if args.json else _as_text(summary))
    return 1 if quarantine.videos else 0


def fill(
    store: FrameStore, jobs: Sequence[Job], workers: int | None, timeout: float, engine: str = "local"
) -> tuple[int, Quarantine]:
    """Store the frames of each job's video and of its windows, in worker processes.

    Returns how many videos are stored without trouble, and the others. ``timeout``: seconds per video, after
    which its process is killed; ``workers`` None: one process per core, of this machine or (``engine`` "ray") of the
    cluster. Raises `OSError` as soon as the store cannot be written.
    """
    # In an order of its own, so that several of these on one store rarely want the same video at a time.
    jobs = random.Random(os.getpid()).sample(list(jobs), len(jobs))
    quarantine, stored = Quarantine(), 0
    work = functools.partial(store_one, store)
    results = (
        run_each_on_ray(work, jobs, workers, timeout, folders=[store.root, *filter(None, [store.directory])])
        if engine == "ray"
        else run_each(work, jobs, workers or os.cpu_count() or 1, timeout)
    )
    for (video, _), reasons in progress(results, "cache-frames", total=len(jobs)):
        if isinstance(reasons, Failure):
            quarantine.add(VideoError(video.path, f"decoding: {reasons.reason}"))
        elif reasons:
            quarantine.add(VideoError(video.path, "; ".join(reasons)))
        else:
            stored += 1
    return stored, quarantine


def store_one(store: FrameStore, job: Job) -> list[str]:
    """Store one video and its windows; returns what is wrong with it.

    Raises `OSError` if the store cannot be written.
    """
    video, windows = job
    reasons: dict[str, None] = {}
    for ref in (video, *(replace(video, start=start, end=end) for start, end in windows)):
        try:
            store.clip(ref)
        except VideoError as error:
            reasons[str(error).removeprefix(f"{video.path}: ")] = None
        if store.write_error is not None:
            raise store.write_error
    return list(reasons)


def _as_text(summary: dict[str, Any]) -> str:
    lines = [
        f"{summary['stored']} of {summary['videos']} videos stored in {summary['store']} "
        f"({summary['bytes'] / 1e6:.1f} MB in all, {summary['seconds']:.1f} s)"
    ]
    broken = list(summary["broken"].items())
    if broken:
        lines.append(f"LEFT OUT: {len(broken)}")
        lines += [f"  {name}: {reason}" for name, reason in broken[:SHOWN]]
        if len(broken) > SHOWN:
            lines.append(f"  … and {len(broken) - SHOWN} more, with --json or --broken")
    return "\n".join(lines) + "\n"
