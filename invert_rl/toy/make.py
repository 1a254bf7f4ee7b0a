"""Writing the toy world to disk: mp4 clips and JSONL rows, the same for the same seed, made only once."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from data_prep.errors import DataError
from data_prep.rows import Row, write_rows
from invert_rl.toy.queries import make_query
from invert_rl.toy.scene import DURATION, Scene, draw_scene
from invert_rl.toy.world import FPS, render

SPLITS = ("train", "validation", "test")
VERSION = 6
"""Raised whenever the same seed would give other clips or rows, so that old folders are not taken for new."""
STAMP = "world.json"
CRF = 16
"""H.264 quality: low enough that a picture of 56x56 pixels stays readable."""


def make_world(
    directory: str | os.PathLike[str],
    seed: int,
    n_train: int,
    n_validation: int,
    n_test: int,
    workers: int = 1,
) -> dict[str, Path]:
    """Write ``videos/<split>_<index>.mp4`` and one JSONL of rows per split; returns the JSONL path by split.

    The counts are clips; a clip gives three to five rows. A clip depends on (seed, split, index) alone, so a
    larger world holds the smaller one. A finished folder with the same settings is left as it is, a
    half-made one is completed. Raises `DataError` where the folder holds another world.
    """
    directory = Path(directory)
    counts = dict(zip(SPLITS, (n_train, n_validation, n_test), strict=True))
    for split, count in counts.items():
        if count < 0:
            raise DataError(f"toy world: the number of {split} clips must not be negative, found {count}")
    settings = {"version": VERSION, "seed": seed, **counts}
    paths = {split: directory / f"{split}.jsonl" for split in SPLITS if counts[split]}
    if _is_finished(directory, settings) and all(path.is_file() for path in paths.values()):
        return paths
    videos = directory / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    _write_text(directory / STAMP, json.dumps({**settings, "finished": False}))
    clips = [(split, index) for split, count in counts.items() for index in range(count)]
    rows = _make_clips(clips, seed, videos, workers)
    for split, path in paths.items():
        write_rows((row for clip in rows for row in clip if row.split == split), path)
    _write_text(directory / STAMP, json.dumps({**settings, "finished": True}))
    return paths


def clip_seed(seed: int, split: str, index: int) -> np.random.Generator:
    """The random numbers of one clip, a pure function of its arguments."""
    return np.random.default_rng([seed, SPLITS.index(split), index])


def make_clip(clip: tuple[str, int], seed: int, videos: Path) -> list[Row]:
    """Write the clip (split, index) into ``videos`` unless it is there, and return its rows."""
    split, index = clip
    rng = clip_seed(seed, split, index)
    scene = draw_scene(rng)
    name = f"{split}_{index:05d}"
    rows = scene_rows(scene, split, name, rng)
    path = videos / f"{name}.mp4"
    if not path.is_file():
        _write_bytes(path, encode(render(scene, rng)))
    return rows


def scene_rows(scene: Scene, split: str, name: str, rng: np.random.Generator) -> list[Row]:
    """One row per event: windows in seconds; ``meta`` has the verb, the masked query, object, colour and all events.

    ``meta["events"]`` is the time line, ``[verb, start, end]`` in order; ``meta["event"]`` the row's place in it.
    """
    rows = []
    events = [[event.verb, event.start, event.end] for event in scene.events]
    for number, event in enumerate(scene.events):
        query = make_query(event.verb, scene.noun, scene.colour, rng)
        meta = {
            "verbs": [query.verb],
            "masked_query": query.masked,
            "object": scene.noun,
            "colour": scene.colour,
            "events": events,
            "event": number,
        }
        rows.append(
            Row(
                id=f"{name}_{number}",
                video=f"{name}.mp4",
                duration=DURATION,
                query=query.text,
                windows=((event.start, event.end),),
                dataset="toy",
                split=split,
                meta=meta,
            )
        )
    return rows


def encode(frames: np.ndarray) -> bytes:
    """Frames ``uint8 [n, height, width, 3]`` at 8 frames per second as an H.264 mp4 file."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        # No B-frames: the first picture then has time 0 without an edit list.
        options = {"crf": str(CRF), "preset": "veryfast", "bf": "0", "threads": "1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return target.getvalue()


def _make_clips(clips: list[tuple[str, int]], seed: int, videos: Path, workers: int) -> list[list[Row]]:
    make = partial(make_clip, seed=seed, videos=videos)
    if workers <= 1:
        return list(_progress(map(make, clips), len(clips)))
    # Started afresh instead of forked: the parent may hold threads (torch) that a fork would break.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(_progress(pool.map(make, clips, chunksize=16), len(clips)))


def _progress(rows: Iterable[list[Row]], total: int) -> Iterable[list[Row]]:
    return tqdm(rows, total=total, desc="toy clips", unit="clip", disable=not sys.stderr.isatty())


def _is_finished(directory: Path, settings: dict[str, int]) -> bool:
    """Whether the folder holds this very world; raises `DataError` where it holds another one."""
    stamp = directory / STAMP
    if not stamp.is_file():
        return False
    try:
        found = json.loads(stamp.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{stamp}: not valid JSON ({error.msg}); delete the folder {directory}") from error
    for name in ("version", "seed"):
        if found.get(name) != settings[name]:
            raise DataError(
                f"{directory}: holds a toy world with {name} {found.get(name)}, asked for {settings[name]}; "
                "choose another folder or delete this one"
            )
    return found == {**settings, "finished": True}


def _write_text(path: Path, text: str) -> None:
    _write_bytes(path, text.encode("utf-8"))


def _write_bytes(path: Path, content: bytes) -> None:
    """Write the whole file or nothing."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
