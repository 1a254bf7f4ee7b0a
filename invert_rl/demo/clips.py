"""Clips to pick from on the demo's page."""

from __future__ import annotations

from pathlib import Path

from data_prep.errors import DataError
from data_prep.rows import read_rows
from invert_rl.cache import cache_folder
from invert_rl.toy.make import VERSION, make_world

ENDINGS = (".mp4", ".mkv", ".webm", ".mov", ".avi")
MOST = 24


def example_clips(folder: Path | None = None) -> list[tuple[str, str]]:
    """Pairs of a video file and a query: the videos of ``folder`` without a query, else a few generated clips."""
    if folder is not None:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder of videos")
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
        return [(str(path.resolve()), "") for path in found[:MOST]]
    world = cache_folder() / f"demo-v{VERSION}"
    paths = make_world(world, seed=3, n_train=0, n_validation=0, n_test=3)
    return [(str(world / "videos" / row.video), row.query) for row in read_rows(paths["test"])][:6]
