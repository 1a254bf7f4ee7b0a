"""A light reference to a video or a part of it; the pixels exist only between the store and the model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VideoRef:
    """A video, or the part of it between ``start`` and ``end`` (seconds of the whole video; None: its ends)."""

    path: str
    start: float | None = None
    end: float | None = None
