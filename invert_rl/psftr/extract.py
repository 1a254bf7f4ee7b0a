"""CLIP features of annotated videos from the frame store, one file a video, and the embeddings of their classes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_json
from invert_rl.psftr.clip import Clip
from invert_rl.psftr.text import PROMPTS, write_text
from invert_rl.tal.annotations import plain_name
from invert_rl.tal.features import Layout, is_rate
from invert_rl.video.clip import Clip as FrameClip
from invert_rl.video.errors import VideoError
from invert_rl.video.ref import VideoRef
from invert_rl.video.sampling import nearest
from invert_rl.video.store import FrameStore

ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".flv")
SETTINGS = "extraction.json"
"""What the features of a folder were made with, beside them."""
TEXT = "text.safetensors"


@dataclass(frozen=True)
class Extraction:
    """What features are made with; all files of a folder share it."""

    model: str
    stride: float
    """Frames between rows."""
    fps: float | None
    """Frames a second that the stride counts for all videos; None: each video's own, as annotated."""
    spaced_names: bool = False
    """Class texts with spaces between a name's words."""

    def layout(self, width: int) -> Layout:
        """The layout that the features are read with."""
        return Layout(width, self.stride, self.stride, self.fps)


def find_videos(folder: Path, videos: list[str], prefix: str = "") -> tuple[dict[str, str], list[str]]:
    """File names by video id, and the ids without a file; ``prefix`` stands before the id in file names."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such video folder")
    files = {path.stem: path.name for path in sorted(folder.iterdir()) if path.suffix.lower() in ENDINGS}
    found = {video: files[prefix + video] for video in videos if prefix + video in files}
    return found, [video for video in videos if video not in found]


def claim_folder(folder: Path, extraction: Extraction) -> None:
    """Make the folder and write what its features are made with; raises `DataError` where that differs."""
    path = folder / SETTINGS
    if path.is_file():
        there = read_json(path)
        if there != asdict(extraction):
            raise DataError(f"{path}: the folder holds features made with {there}; choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as out:
        json.dump(asdict(extraction), out, indent=1)
        out.write("\n")


def rate_of(video: str, record: Mapping[str, Any], extraction: Extraction) -> float:
    """Frames a second that the stride of a video counts; raises `DataError` where nothing says it, or no rate."""
    fps = extraction.fps if extraction.fps is not None else record.get("fps")
    if fps is None:
        raise DataError(f"video {video!r} has no fps in the annotations; give --fps, the rate that the stride counts")
    if not is_rate(fps):
        raise DataError(
            f"video {video!r}: fps must be frames a second above 0, found {fps!r}; correct it, or give --fps"
        )
    return float(fps)


def sample(clip: FrameClip, rate: float, stride: float) -> np.ndarray:
    """Places in a whole video's frames, one per row: row r shows the frame nearest to second ``r * stride / rate``."""
    rows = max(1, int(clip.end * rate / stride + 1e-6))
    return nearest(clip.timestamps, np.arange(rows) * stride / rate)


def write_features(path: Path, rows: np.ndarray) -> None:
    """Write ``(T, d)`` float32 as npy; the file appears whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as out:
            np.save(out, rows.astype(np.float32))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def extract_videos(
    clip: Clip,
    database: Mapping[str, Mapping[str, Any]],
    files: Mapping[str, str],
    stores: Mapping[str, FrameStore],
    folder: Path,
    extraction: Extraction,
    batch: int = 64,
) -> Iterator[tuple[str, str | None]]:
    """Write ``VIDEO.npy`` for every file, and yield each video with None or the reason why it has none.

    A video that has its file is left as it is. The next video is decoded while the model works on one. Takes file
    names and stores by video id. A video whose length misses its annotated duration by more than the reader allows is
    not written.
    """
    layout = extraction.layout(clip.width)
    todo = [video for video in files if not (folder / f"{video}.npy").is_file()]
    yield from ((video, None) for video in files if video not in set(todo))

    def frames(video: str) -> tuple[FrameClip, np.ndarray] | VideoError:
        try:
            whole = stores[video].clip(VideoRef(files[video]))
        except VideoError as error:
            return error
        return whole, sample(whole, rate_of(video, database[video], extraction), extraction.stride)

    with ThreadPoolExecutor(1) as decoder:
        coming = [decoder.submit(frames, video) for video in todo[:1]]
        for number, video in enumerate(todo):
            found = coming.pop().result()
            coming = [decoder.submit(frames, following) for following in todo[number + 1 : number + 2]]
            if isinstance(found, VideoError):
                yield video, found.reason
                continue
            whole, places = found
            try:
                record = database[video]
                layout.grid(record.get("fps")).check_length(len(places), float(record["duration"]), files[video])
            except DataError as error:
                yield video, str(error)
                continue
            write_features(folder / f"{video}.npy", clip.frames(whole.frames[places], batch).numpy())
            yield video, None


def extract_text(clip: Clip, classes: list[str], folder: Path, extraction: Extraction) -> Path:
    """Write the embeddings of ``classes`` in all `PROMPTS` to ``text.safetensors``, and return its path."""
    names = [plain_name(name) for name in classes] if extraction.spaced_names else classes
    embeddings = {prompt: clip.texts([form.format(name) for name in names]) for prompt, form in PROMPTS.items()}
    write_text(folder / TEXT, classes, embeddings, model=extraction.model, logit_scale=f"{clip.logit_scale:.6g}")
    return folder / TEXT
