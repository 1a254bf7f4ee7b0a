"""One run, one folder: chosen and made in one step, and locked for as long as the run lives."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from transformers import TrainingArguments

from data_prep.errors import DataError
from invert_rl.ranks import on_main_process
from invert_rl.resume import NEWEST, wants_resume

SUMMARY = "summary.json"
LOCK = ".lock"
"""Locked by the run that uses the folder; says which that is. The kernel unlocks it when the process ends, anyhow."""


class FolderInUseError(DataError):
    """Another run holds the lock of a folder."""


@contextmanager
def run_folder(args: TrainingArguments, recipe: str) -> Iterator[None]:
    """Make and lock ``args.output_dir`` for the block; where it is left at ``runs/<recipe>``, take the next free one.

    The main process does it, the others are told. A folder that was made here and is still empty at the end goes
    again. Raises `DataError` for a folder that another run uses or has used, and that is not to be continued.
    """
    resuming = wants_resume(args.resume_from_checkpoint)
    fresh = args.output_dir == f"runs/{recipe}"
    if fresh and str(args.resume_from_checkpoint).lower() in NEWEST:
        raise DataError(
            f"--resume_from_checkpoint {args.resume_from_checkpoint} needs --output_dir: without it each run gets a "
            "new folder, which holds no checkpoint"
        )
    lock: list[FileLock] = []
    made: list[Path] = []

    def claim() -> str:
        folder = Path(str(args.output_dir))
        if fresh:
            folder = new_run_folder(Path("runs"), recipe)
            made.append(folder)
        elif not folder.exists():
            made.extend(path for path in (folder, *folder.parents) if not path.exists())
            folder.mkdir(parents=True, exist_ok=True)
        lock.append(lock_folder(folder))
        check_run_folder(str(folder), resuming)
        return str(folder)

    try:
        args.output_dir = on_main_process(claim)
        yield
    finally:
        for held in lock:
            _leave(held, made)


def new_run_folder(parent: Path, name: str) -> Path:
    """Make ``<parent>/<name>_NNN`` with the first number that is free; of two processes at once each gets its own."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 10_000):
        folder = parent / f"{name}_{number:03d}"
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise DataError(f"{parent}: holds 9999 runs of {name}; give an --output_dir")


def lock_folder(folder: Path) -> FileLock:
    """Lock a run folder for this process; raises `FolderInUseError` with who has it."""
    if not folder.is_dir():
        raise DataError(f"{folder}: the output_dir is a file")
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise FolderInUseError(
            f"{folder}: another run is using it ({holder(folder)}); wait for its end, or choose another --output_dir"
        ) from None
    me = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
    (folder / LOCK).write_text(f"{me}: {shlex.join(sys.argv)}\n", encoding="utf-8")
    return lock


def holder(folder: Path) -> str:
    """Who locked a run folder last, in its own words."""
    with suppress(OSError):
        text = (folder / LOCK).read_text(encoding="utf-8", errors="replace").strip()
        return text[:300] or "which has just started"
    return "which does not say its name"


def in_use(folder: Path) -> bool:
    """Whether a run holds the lock of a folder."""
    if not (folder / LOCK).exists():
        return False
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False


def check_run_folder(output_dir: str, resuming: bool) -> None:
    """Refuse to write over another run; raises `DataError` with the remedy."""
    folder = Path(output_dir)
    if not resuming and folder.is_dir():
        old = [path.name for path in folder.iterdir() if path.name == SUMMARY or path.name.startswith("checkpoint-")]
        if old:
            raise DataError(
                f"{folder}: holds another run ({sorted(old)[0]}); continue it with --resume_from_checkpoint latest, or "
                "choose another --output_dir"
            )


def _leave(lock: FileLock, made: list[Path]) -> None:
    """Release a run folder; remove those of ``made``, the innermost first, in which nothing was left."""
    path = Path(lock.lock_file)
    if made and [item.name for item in made[0].iterdir()] == [path.name]:
        path.unlink()
        with suppress(OSError):  # somebody has put something there meanwhile
            for folder in made:
                folder.rmdir()
    lock.release()
