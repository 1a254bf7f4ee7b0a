"""The error for a video, or a part of one, that cannot be used."""

from __future__ import annotations

from data_prep.errors import DataError


class VideoError(DataError):
    """A video that cannot be used; the message is ``path: reason``.

    ``path`` is the video's name as the row gives it, or ``name [start, end]`` where only this window of it
    cannot be used, and ``reason`` a short text without it, fit for counting how often each trouble occurs.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both arguments: so the error survives a trip between processes
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
