"""A light reference to a video or a part of it; the pixels exist only between the store and the model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from invert_rl.video.settings import FrameSettings


@dataclass(frozen=True)
class VideoRef:
    """A video, or the part of it between ``start`` and ``end`` (seconds of the video; None: its ends).

    ``clip`` is the part ``(start, end)`` of the file, in seconds of the file, that is the video (None: all of the
    file). A video's time starts at 0 where its clip does: `data_prep.rows.Row.clip_windows` are such times.
    ``max_frames`` and ``total_pixels`` stand for those of the settings where a prompt has its own (`FrameBudgets`).
    """

    path: str
    start: float | None = None
    end: float | None = None
    clip: tuple[float, float] | None = None
    max_frames: int | None = None
    total_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.clip is not None:  # a list where the reference came through JSON
            start, end = self.clip
            object.__setattr__(self, "clip", (float(start), float(end)))

    @property
    def whole(self) -> VideoRef:
        """The video that this is a part of."""
        return replace(self, start=None, end=None)

    def settings(self, settings: FrameSettings) -> FrameSettings:
        """``settings`` with this prompt's own budgets; raises `ValueError` for one that is out of range."""
        own = {"max_frames": self.max_frames, "total_pixels": self.total_pixels}
        return replace(settings, **{name: value for name, value in own.items() if value is not None})
