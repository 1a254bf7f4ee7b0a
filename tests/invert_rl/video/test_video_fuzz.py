"""Damaged files never do more than raise the one error, and the check and training agree on each of them."""

from __future__ import annotations

import functools
import os
import resource
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from fuzzing import mutations, write_clips

from data_prep.errors import VideoError
from data_prep.probe import probe
from data_prep.workers import Failure, run_each
from invert_rl.video.load import decode_clip
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings

SETTINGS = FrameSettings(fps=5, min_pixels=28 * 28, max_pixels=64 * 64)
SECONDS = 60.0
MOST_MEMORY_KB = 3_000_000


def judge(folder: Path, job: tuple[str, int, int]) -> list[str]:
    """Verdicts on the mutations ``[first, last)`` of a clip; what is wrong with them begins with FOUND."""
    name, first, last = job
    data = (folder / name).read_bytes()
    verdicts = []
    for number, damaged in enumerate(islice(mutations(data, hash_of(name)), first, last), start=first):
        path = folder / f"{name}-{os.getpid()}.damaged"
        path.write_bytes(damaged)
        began = time.monotonic()
        try:
            clip = decode_clip(VideoRef(path.name), SETTINGS, folder, timeout=SECONDS)
            ordered = (clip.timestamps[1:] >= clip.timestamps[:-1]).all() and np.isfinite(clip.timestamps).all()
            trained = "ok" if ordered and len(clip.frames) % 2 == 0 else "FOUND order"
        except VideoError as error:
            trained = error.status
        except Exception as error:
            trained = f"FOUND {type(error).__name__}: {error}"
        checked = probe(folder, path.name, timeout=SECONDS).status
        part = part_of(folder, path.name)
        found = trained.startswith("FOUND") or part.startswith("FOUND")
        if found or (trained == "ok") != (checked == "ok") or time.monotonic() - began > 2 * SECONDS:
            trained = f"FOUND trained {trained}, checked {checked}, part {part}, {time.monotonic() - began:.0f} s"
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > MOST_MEMORY_KB:
            trained = f"FOUND memory, {trained}"
        verdicts.append(f"{trained} ({name}, mutation {number})" if trained.startswith("FOUND") else trained)
    path.unlink()
    return verdicts


def part_of(folder: Path, name: str) -> str:
    """What decoding a part in the middle gives, by seeking."""
    try:
        decode_clip(VideoRef(name, 0.6, 0.9), SETTINGS, folder, timeout=SECONDS)
    except VideoError as error:
        return error.status
    except Exception as error:
        return f"FOUND {type(error).__name__}: {error}"
    return "ok"


def hash_of(name: str) -> int:
    return sum(ord(char) * 31**place for place, char in enumerate(name)) % (1 << 32)


def run_corpus(folder: Path, mutations_each: int) -> Counter[str]:
    clips = [path.name for path in write_clips(folder)]
    jobs = [(name, first, first + 20) for name in clips for first in range(0, mutations_each, 20)]
    counted: Counter[str] = Counter()
    for job, verdicts in run_each(functools.partial(judge, folder), jobs, 2, 20 * 3 * SECONDS):
        counted.update([f"FOUND {job}: {verdicts.reason}"] if isinstance(verdicts, Failure) else verdicts)
    return counted


@pytest.mark.slow
def test_thousands_of_damaged_files_in_all_containers_raise_the_one_error(tmp_path: Path) -> None:
    counted = run_corpus(tmp_path, 100)
    assert not {verdict for verdict in counted if verdict.startswith("FOUND")}
    assert sum(counted.values()) > 4000
    assert counted["ok"] > 500 and counted["decode_error"] > 100 and counted["unreadable"] > 500
