"""The exceptions that mean "your data is wrong", as opposed to "this library is wrong"."""

from __future__ import annotations

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
"""What a video file can be."""


class DataError(ValueError):
    """Bad input data; the message names the file, line or row id, what is wrong and what to do."""


class VideoError(DataError):
    """A video that cannot be used; the message is ``path: reason``.

    ``path`` is the video's name as the row gives it, or ``name [start, end]`` where only this window of it
    cannot be used, ``reason`` a short text without it, fit for counting how often each trouble occurs, and
    ``status`` one of `STATUSES`.
    """

    def __init__(self, path: str, reason: str, status: str = DECODE_ERROR) -> None:
        super().__init__(path, reason, status)  # all arguments: so the error survives a trip between processes
        self.path = path
        self.reason = reason
        self.status = status

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
