"""A light reference to a video or a part of it; the pixels exist only between the store and the model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VideoRef:
    """A video, or the part of it between ``start`` and ``end`` (seconds of the video; None: its ends).

    ``clip`` is the part ``(start, end)`` of the file, in seconds of the file, that is the video (None: all of the
    file). A video's time starts at 0 where its clip does: `data_prep.rows.Row.clip_windows` are such times.
    """

    path: str
    start: float | None = None
    end: float | None = None
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.clip is not None:  # a list where the reference came through JSON
            start, end = self.clip
            object.__setattr__(self, "clip", (float(start), float(end)))

    @property
    def whole(self) -> VideoRef:
        """The video that this is a part of."""
        return VideoRef(self.path, clip=self.clip)
