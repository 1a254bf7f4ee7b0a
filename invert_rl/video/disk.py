"""Clips as files: one safetensors file per clip, raw uint8 frames that are mapped into memory when read.

An entry belongs to the video's name, the window and the settings, and remembers the source file it was made
from and a checksum of its frames. It is written under another name first and appears whole or not at all. That
other file carries the lock that lets one process write while others wait for it; a killed process leaves it behind
unlocked, and the next one takes it over.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch
from filelock import lock_descriptor
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from data_prep.errors import UNREADABLE, VideoError
from data_prep.video_file import look_at
from invert_rl.video.clip import Clip
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings

logger = logging.getLogger(__name__)

FORMAT = "2"
"""Raised when sampling, resizing or the file's layout change, so that older entries are made anew."""


class Source:
    """The file that a clip was made from: its size and modification time, and its content's hash."""

    def __init__(self, path: Path, name: str) -> None:
        """Look at the file; raises `VideoError` if it is missing, empty or not a regular file."""
        status = look_at(path, name)
        self.path = path
        self.name = name
        self.size = status.st_size
        self.mtime_ns = status.st_mtime_ns

    def sha256(self) -> str:
        """Hash of the content, in hexadecimal; raises `VideoError` where it cannot be read."""
        try:
            return _sha256(self.path, self.size, self.mtime_ns)
        except OSError as error:  # of the video, not of the store
            raise VideoError(self.name, f"cannot be read ({error.strerror})", UNREADABLE) from error

    def same(self, recorded: dict[str, str]) -> bool:
        """Whether an entry's record means this file; a copy with another modification time is the same."""
        if recorded.get("size") != str(self.size):
            return False
        return recorded.get("mtime_ns") == str(self.mtime_ns) or recorded.get("sha256") == self.sha256()

    def record(self) -> dict[str, str]:
        """What `same` compares."""
        return {"size": str(self.size), "mtime_ns": str(self.mtime_ns), "sha256": self.sha256()}


@functools.lru_cache(maxsize=1 << 16)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Hash of a file's content; size and time only say for how long the answer holds."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def entry_path(directory: Path, settings: FrameSettings, ref: VideoRef) -> Path:
    """The file of a clip: a folder per settings, its prompt's own among them, and in it a name made from the rest."""
    values = "_".join(str(value) for value in dataclasses.astuple(ref.settings(settings)))
    parts = [ref.path, ref.start, ref.end, *(ref.clip or ())]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    return directory / f"v{FORMAT}_{values}" / digest[:2] / f"{digest}.safetensors"


def read_entry(path: Path, ref: VideoRef, source: Source) -> Clip | None:
    """The clip of an entry, its frames mapped from the file; None if it is missing, damaged or outdated."""
    try:
        with safe_open(path, framework="pt") as entry:
            recorded = entry.metadata() or {}
            if recorded.get("video") != ref.path or not source.same(recorded):
                logger.warning("%s: the video has changed since its frames were stored; decoding it again", ref.path)
                return None
            frames, timestamps = entry.get_tensor("frames"), entry.get_tensor("timestamps")
            if recorded.get("crc32") != _checksum(frames, timestamps):
                raise ValueError("their checksum is another one")
            return Clip(
                frames=frames,
                timestamps=timestamps.numpy(),
                start=float(recorded["start"]),
                end=float(recorded["end"]),
                path=ref.path,
            )
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError, ValueError) as error:
        logger.warning("%s: stored frames %s are damaged (%s); decoding it again", ref.path, path, error)
        return None


def encode_entry(clip: Clip, source: Source) -> bytes:
    """The bytes of an entry."""
    tensors = {"frames": clip.frames.contiguous(), "timestamps": torch.from_numpy(clip.timestamps)}
    facts = {"video": clip.path, "start": repr(clip.start), "end": repr(clip.end), **source.record()}
    return save(tensors, {**facts, "crc32": _checksum(*tensors.values())})


def _checksum(*tensors: torch.Tensor) -> str:
    """Of the tensors' bytes: a damaged page of the disk must not become a picture."""
    value = 0
    for tensor in tensors:
        value = zlib.crc32(tensor.contiguous().view(-1).numpy(), value)
    return f"{value:08x}"


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """An empty file that becomes ``path`` at the end of the block if something was written to it.

    Waits while another process writes the same entry: look for the entry again inside the block. Raises
    `OSError` where the file system is full, read-only or without locks. An exception leaves nothing behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    file = _locked(partial)
    with file:
        try:
            file.truncate()
            yield file
            if file.tell():
                file.flush()
                os.fsync(file.fileno())
                os.replace(partial, path)
            else:
                partial.unlink()
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _locked(partial: Path) -> IO[bytes]:
    """Open ``partial`` and lock it for this process alone, waiting if need be."""
    while True:
        file = os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
        try:
            lock_descriptor(file.fileno())
            # Whoever held the lock may have moved or removed the file meanwhile: then lock a new one.
            if os.fstat(file.fileno()).st_ino == partial.stat().st_ino:
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()
