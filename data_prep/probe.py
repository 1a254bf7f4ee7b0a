"""Decode one video from its first to its last frame and say what it is, or why it cannot be used."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OK = "ok"
MISSING = "missing"
NOT_A_FILE = "not_a_file"
EMPTY = "empty"
UNREADABLE = "unreadable"
NO_VIDEO = "no_video"
DECODE_ERROR = "decode_error"
TRUNCATED = "truncated"
TIMEOUT = "timeout"
CRASHED = "crashed"
STATUSES = (OK, MISSING, NOT_A_FILE, EMPTY, UNREADABLE, NO_VIDEO, DECODE_ERROR, TRUNCATED, TIMEOUT, CRASHED)

TRUNCATION_SECONDS = 0.5
TRUNCATION_FRACTION = 0.05
"""A file whose pictures end earlier than its header says by more than the larger of the two is truncated."""


@dataclass(frozen=True)
class VideoRecord:
    """What is known about one video file; the line of a manifest.

    ``status`` is one of `STATUSES`, ``reason`` says in words why it is not ``ok``. ``start`` is the
    presentation time of the first frame and ``duration`` the time from there to the end of the last frame, in
    seconds; ``fps`` the average rate in frames per second, ``frames`` the number decoded, ``rotation`` the
    degrees that a player turns the picture counter-clockwise, ``width`` and ``height`` the stored size before
    that. ``bytes`` and ``mtime`` (nanoseconds) tell whether the file changed since.
    """

    video: str
    status: str
    reason: str = ""
    duration: float | None = None
    start: float | None = None
    fps: float | None = None
    frames: int | None = None
    rotation: int | None = None
    codec: str | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    mtime: int | None = None


def probe(folder: str | os.PathLike[str], video: str) -> VideoRecord:
    """Decode every frame of ``folder/video``; never raises for a bad file, its status and reason say it.

    Only a regular file is opened, so a pipe or a device cannot block. A decoder that never returns is the
    caller's to stop (`data_prep.workers`).
    """
    path = Path(folder) / video
    try:
        info = path.stat()
    except FileNotFoundError:
        return VideoRecord(video, MISSING, f"no such file: {path}")
    except OSError as error:
        return VideoRecord(video, UNREADABLE, f"{path}: {error.strerror}")
    if not stat.S_ISREG(info.st_mode):
        return VideoRecord(video, NOT_A_FILE, f"{path} is {_kind_of(info.st_mode)}, not a regular file")
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        return VideoRecord(video, UNREADABLE, "a symbolic link leads out of the video folder; copy the file into it")
    facts: dict[str, Any] = {}
    if info.st_size == 0:
        status, reason = EMPTY, "the file has 0 bytes"
    else:
        status, reason, facts = _decode(path)
    return VideoRecord(video, status, reason, bytes=info.st_size, mtime=info.st_mtime_ns, **facts)


def _decode(path: Path) -> tuple[str, str, dict[str, Any]]:
    """Status, reason and the facts of a `VideoRecord` that decoding tells."""
    import av
    from av.error import FFmpegError

    av.logging.set_level(av.logging.PANIC)
    try:
        container = av.open(str(path))
    except (FFmpegError, OSError, ValueError) as error:
        return UNREADABLE, f"cannot be opened as a video ({_message(error)})", {}
    with container:
        stream: Any = container.streams.best("video")  # the one that training decodes: not a cover picture
        if stream is None:
            return NO_VIDEO, "the file has no video stream", {}
        if stream.codec_context is None:
            return NO_VIDEO, "no decoder for the video stream", {}
        stream.codec_context.thread_count = 1
        facts: dict[str, Any] = {
            "codec": stream.codec_context.name,
            "width": stream.codec_context.width,
            "height": stream.codec_context.height,
        }
        declared = _declared_end(container, stream)
        clock = _Clock(float(1 / stream.average_rate) if stream.average_rate else 0.0)
        problem = ""
        try:
            for frame in _frames(container, stream, clock):
                clock.add_frame(frame)
        except (FFmpegError, OSError, ValueError) as error:
            problem = _message(error)
    if clock.frames == 1 and clock.end == clock.first and declared is not None:
        clock.end = max(clock.end, declared)  # a picture without a length of its own stays to the end
    facts["frames"] = clock.frames
    if clock.first is not None:
        facts |= {
            "start": round(clock.first, 6),
            "duration": round(clock.end - clock.first, 6),
            "rotation": clock.rotation,
            "fps": _average_fps(clock, stream),
        }
    if problem:
        return DECODE_ERROR, f"decoding stopped after {clock.frames} frames ({problem})", facts
    if clock.first is None:
        return DECODE_ERROR, "no frame can be decoded", facts
    end = max(clock.end, clock.end_of_packets)
    if declared is not None and declared - end > max(TRUNCATION_SECONDS, TRUNCATION_FRACTION * declared):
        return TRUNCATED, f"the file ends at {end:.3f} s, its header says {declared:.3f} s", facts
    return OK, "", facts


class _Clock:
    """Follows the presentation times of what was read, in seconds."""

    def __init__(self, frame_seconds: float) -> None:
        self.frame_seconds = frame_seconds
        self.frames = 0
        self.first: float | None = None
        self.end = 0.0
        self.end_of_packets = 0.0
        self.rotation = 0

    def add_frame(self, frame: Any) -> None:
        """Count a decoded frame."""
        if frame.pts is None or frame.time_base is None:
            time = self.frames * self.frame_seconds
        else:
            time = float(frame.pts * frame.time_base)
        length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
        if self.first is None:
            self.first = time
            self.rotation = int(frame.rotation)
        self.first = min(self.first, time)
        self.end = max(self.end, time + (length or self.frame_seconds))
        self.frames += 1


def _frames(container: Any, stream: Any, clock: _Clock) -> Iterator[Any]:
    """Every frame of ``stream``; the packets of the other streams only move ``clock.end_of_packets``.

    A header's duration covers the longest stream, so a film whose sound outlasts its pictures is whole.
    """
    for packet in container.demux():
        if packet.pts is not None and packet.time_base is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            clock.end_of_packets = max(clock.end_of_packets, end)
        if packet.stream is stream or packet.stream.index == stream.index:
            yield from packet.decode()


def _declared_end(container: Any, stream: Any) -> float | None:
    """When the header says that the pictures (or, if it does not say, the whole file) end, in seconds."""
    if stream.duration is not None and stream.time_base is not None:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    if container.duration is not None:
        return ((container.start_time or 0) + container.duration) / 1_000_000
    return None


def _average_fps(clock: _Clock, stream: Any) -> float | None:
    if stream.average_rate:
        return round(float(stream.average_rate), 6)
    length = clock.end - (clock.first or 0.0)
    return round(clock.frames / length, 6) if length > 0 else None


def _message(error: Exception) -> str:
    """The error without the path, which FFmpeg's own text repeats."""
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"


def _kind_of(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "a special file")
