"""The one way to open a video: for training, evaluation, checks, reports and the supervised systems alike.

A file is opened here and handed to FFmpeg as bytes, without any protocol, so that nothing inside it (a playlist, a
reference to other media) makes FFmpeg open another; and only as one of the containers of `DEMUXERS`.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from data_prep.errors import (
    DECODE_ERROR,
    EMPTY,
    MISSING,
    NO_VIDEO,
    NOT_A_FILE,
    UNREADABLE,
    DataError,
    VideoError,
)
from data_prep.rows import check_video_name

DEMUXERS = (
    *("mov", "matroska", "avi", "flv", "asf", "mpegts", "mpeg", "ogg", "mxf", "nut", "ivf", "gif", "apng"),
    *("dv", "nsv", "nuv", "rm", "swf", "wtv"),
)
"""FFmpeg's names of the containers that are read (mp4, m4v, 3gp and MJPEG 2000 are mov, WebM is matroska, WMV asf);
none of them names other files. Playlists, still pictures, text and streams without a container are refused."""
MOST_PIXELS = 1 << 26
"""Pixels of the largest picture, 8192 x 8192: a damaged header must not claim the memory."""
MOST_OBLONG = 200
"""Longer pictures than 1 : 200 are refused by qwen-vl-utils, too."""
READ_BUFFER = 1 << 18
"""Bytes per read; PyAV calls back into Python for each."""
OPEN_OPTIONS = {
    "protocol_whitelist": "none",
    "format_whitelist": ",".join(DEMUXERS),
    "max_pixels": str(MOST_PIXELS),
}
BROKEN = (av.FFmpegError, EOFError, OSError, ValueError, ArithmeticError, MemoryError)
"""What PyAV raises for a damaged file: FFmpeg's errors, those of our reading and seeking in it (EIO, a seek to a
damaged offset), and those of its own arithmetic and decoding of text."""
BEFORE_19: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Titles that are not UTF-8: PyAV 19 replaces what it cannot read and has no such option, older ones raise."""


def resolve(root: str | os.PathLike[str], name: str) -> Path:
    """The file that a video name means inside the folder ``root`` (which may itself be a link).

    Raises `VideoError` for a name that leaves the folder, by itself or through a symbolic link, and `DataError` where
    the folder itself is gone or holds nothing any more, as when a mount is lost: no video of it is broken then.
    """
    try:
        check_video_name(name, name)
    except DataError as error:
        raise VideoError(name, "the name must be a relative path inside the video folder", UNREADABLE) from error
    folder = Path(root).resolve()
    try:
        path = (folder / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise VideoError(name, f"the name cannot be followed ({error})", UNREADABLE) from error
    if not path.is_relative_to(folder):
        reason = "a symbolic link leads out of the video folder; copy the file into it"
        raise VideoError(name, reason, UNREADABLE)
    if not os.path.exists(path) and not _holds_anything(folder):
        raise DataError(f"{root}: the video folder is gone or empty; start again when it is back")
    return path


def _holds_anything(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def look_at(path: str | os.PathLike[str], name: str) -> os.stat_result:
    """Size and time of a file; raises `VideoError` unless it is a regular file that is not empty."""
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise VideoError(name, "no such file", MISSING) from error
    except (OSError, ValueError) as error:
        raise VideoError(name, f"cannot be opened ({reason_of(error)})", UNREADABLE) from error
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(name, f"not a regular file but {_kind_of(status.st_mode)}", NOT_A_FILE)
    if status.st_size == 0:
        raise VideoError(name, "empty file", EMPTY)
    return status


@contextmanager
def open_video(path: str | os.PathLike[str], name: str | None = None) -> Iterator[tuple[Any, Any]]:
    """Open a regular file as ``(container, video stream)``; of several video streams FFmpeg's best one.

    Raises `VideoError` for a missing file, anything but a regular file (which is never waited for), an empty
    file, a file that is no video and a file without a video stream.
    """
    name = str(path) if name is None else name
    look_at(path, name)
    try:
        file = VideoFile(path, "rb", opener=_open_at_once)
    except (OSError, ValueError) as error:
        raise VideoError(name, f"cannot be opened ({reason_of(error)})", UNREADABLE) from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise VideoError(name, "not a regular file any more", NOT_A_FILE)
        with reading(name, lambda: "not a video or damaged from the start", UNREADABLE):
            container = av.open(file, mode="r", options=dict(OPEN_OPTIONS), buffer_size=READ_BUFFER, **BEFORE_19)
        with container:
            stream = container.streams.best("video")
            if stream is None:
                raise VideoError(name, "no video stream", NO_VIDEO)
            if stream.codec_context is None:
                raise VideoError(name, "no decoder for the video stream", NO_VIDEO)
            if rational(stream.time_base) is None:
                raise VideoError(name, "the video stream has no clock", UNREADABLE)
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > MOST_PIXELS or max(width, height) > MOST_OBLONG * max(1, min(width, height)):
                reason = f"pictures of {width} x {height} pixels; at most {MOST_PIXELS} and 1 : {MOST_OBLONG} are used"
                raise VideoError(name, reason, UNREADABLE)
            stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}  # pictures may grow on the way
            # Worker processes decode side by side; FFmpeg's own threads would cost more CPU for the same.
            stream.codec_context.thread_count = 1
            yield container, stream


@contextmanager
def reading(name: str, what: Callable[[], str], status: str = DECODE_ERROR) -> Iterator[None]:
    """A block that calls PyAV only: what it raises for a damaged file becomes a `VideoError` that begins ``what()``."""
    try:
        yield
    except BROKEN as error:
        raise VideoError(name, f"{what()} ({reason_of(error)})", status) from error


def picture_of(frame: Any, converter: VideoReformatter | None = None) -> np.ndarray:
    """A frame as it is stored, uint8 (H, W, 3) RGB; without threads, as a pool is not safe beside forks."""
    return (converter or VideoReformatter()).reformat(frame, format="rgb24", threads=1).to_ndarray()


def reason_of(error: BaseException) -> str:
    """FFmpeg's or the system's words for an error, without its number and the file's name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def rational(value: Any) -> Fraction | None:
    """A rate or time base of PyAV as an exact fraction; None where it is not set.

    PyAV 19 has a type of its own, whose arithmetic is approximate and whose unset values are 0 or have a zero
    denominator; earlier ones give fractions and None.
    """
    return Fraction(value.numerator, value.denominator) if value else None


class VideoFile(io.FileIO):
    """A file as FFmpeg wants it: a seek that fails is a negative number, for FFmpeg to say what comes of it.

    PyAV would print the traceback of each such exception but the last.
    """

    def seek(self, offset: int, whence: int = 0) -> int:
        """The new position, or minus the system's number of the error for an offset that a damaged index gave."""
        try:
            return super().seek(offset, whence)
        except (OSError, ValueError, OverflowError) as error:
            return -(getattr(error, "errno", None) or errno.EINVAL)


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a FIFO would otherwise wait for its writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _kind_of(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "a special file")
