"""Decode one video from its first to its last frame and say what it is, or why it cannot be used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import OK, STATUSES, VideoError

__all__ = ["OK", "STATUSES", "VideoRecord", "probe"]


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


def probe(folder: str | os.PathLike[str], video: str, timeout: float | None = None) -> VideoRecord:
    """Decode every frame of ``folder/video``; never raises for a bad file, its status and reason say it.

    The file is opened, read and judged as training does it (`data_prep.decode`), so that what is ``ok`` here can be
    trained on. Only a regular file is opened, so a pipe or a device cannot block. ``timeout`` in seconds is looked
    at between packets and frames; a decoder that never returns is the caller's to stop (`data_prep.workers`).
    """
    from data_prep.video_file import look_at, resolve

    path = Path(folder) / video
    size: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    try:
        with suppress(OSError, ValueError):
            info = path.stat()
            size = {"bytes": info.st_size, "mtime": info.st_mtime_ns}
        look_at(path, video)  # what the file is comes before where it lies: a link to a device is no regular file
        _decode(resolve(folder, video), video, timeout, facts)
    except VideoError as error:
        return VideoRecord(video, error.status, error.reason, **size, **facts)
    return VideoRecord(video, OK, **size, **facts)


def _decode(path: Path, name: str, timeout: float | None, facts: dict[str, Any]) -> None:
    """Decode all frames and put what a `VideoRecord` tells into ``facts``; raises `VideoError`, facts stay."""
    from data_prep.decode import Deadline, PacketList, as_decoded, check_complete, each, pts_of
    from data_prep.video_file import open_video, picture_of, rational, reading

    deadline = Deadline(name, timeout)
    with open_video(path, name) as (container, stream):
        context, rate, base = stream.codec_context, rational(stream.average_rate), rational(stream.time_base) or 1
        facts |= {"codec": context.name, "width": context.width, "height": context.height, "frames": 0}
        packets, length = PacketList(name, container, stream), 0
        pts: list[int] = []

        def progress() -> str:
            return f"decoding stopped after {len(pts)} frames"

        for packet in each(container.demux(), name, progress):
            deadline.check()
            packets.add(packet)
            if packet.stream.index != stream.index:
                continue
            for frame in each(_frames(packet), name, progress):
                deadline.check()
                pts.append(pts_of(frame, name))
                if len(pts) == 1:
                    facts |= {"rotation": int(frame.rotation), "start": round(float(pts[0] * base), 6)}
                    with reading(name, lambda: "the first picture cannot be converted"):
                        picture_of(frame)
                length = frame.duration or 0
                facts["frames"] = len(pts)
        if not pts:
            raise VideoError(name, "no frame could be decoded")
        info = as_decoded(packets.info(), pts, length)
        facts |= {
            "start": round(float(info.pts[0] * info.time_base), 6),
            "duration": round(info.duration - float(info.times[0]), 6),
            "fps": round(float(rate) if rate else info.fps, 6),
        }
    check_complete(info)


def _frames(packet: Any) -> Iterator[Any]:
    """The frames of a packet; decoding begins when the first is asked for, so that `each` sees its errors."""
    yield from packet.decode()
