"""How many frames of which size a model sees of a video."""

from __future__ import annotations

import math
from dataclasses import dataclass

SPATIAL_MERGE = 2
"""Qwen's vision tower merges 2 x 2 patches into one token."""
TEMPORAL_PATCH = 2
"""Qwen's vision tower merges 2 frames into one grid step, hence even frame counts."""
MANY = 1 << 40
"""No limit on frames and pixels of a whole video."""


@dataclass(frozen=True)
class FrameSettings:
    """Frame sampling and pixel budget, with the paper's values (section 3.1) as defaults.

    Raises `ValueError` naming the field that is out of range.
    """

    fps: float = 2.0
    """Frames per second."""
    min_frames: int = 4
    """At least this many frames, or what the clip has."""
    max_frames: int = 768
    """At most this many frames; a longer video gets fewer per second."""
    total_pixels: int = 3584 * 28 * 28
    """Pixels of a whole video, counted in pairs of frames: a frame gets ``total_pixels / frames * 2``."""
    min_pixels: int = 16 * 28 * 28
    """Least pixels of a frame (stronger than ``total_pixels``)."""
    max_pixels: int = 768 * 28 * 28
    """Most pixels of a frame."""
    image_patch_size: int = 14
    """Side of the vision tower's patch in pixels: 14 for Qwen2.5-VL, 16 for Qwen3-VL."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps must be a positive number of frames per second, found {self.fps!r}")
        object.__setattr__(self, "fps", float(self.fps))  # 2 and 2.0 are one setting, also in a store's folder
        for name in (
            "min_frames",
            "max_frames",
            "total_pixels",
            "min_pixels",
            "max_pixels",
            "image_patch_size",
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, found {value!r}")
        if self.max_frames < TEMPORAL_PATCH:
            raise ValueError(f"max_frames must be at least {TEMPORAL_PATCH}, found {self.max_frames}")
        if self.max_frames < self.min_frames:
            raise ValueError(f"max_frames ({self.max_frames}) must not be below min_frames ({self.min_frames})")
        if self.max_pixels < self.min_pixels:
            raise ValueError(f"max_pixels ({self.max_pixels}) must not be below min_pixels ({self.min_pixels})")

    @classmethod
    def every_row(cls, rate: float, side: int) -> FrameSettings:
        """Frames for ``rate`` rows a second, twice as many and without limit, of a 16:9 picture ``side`` pixels high.

        The store spreads an even number of frames over a video; of twice as many one is at most a quarter of a row away
        from where a row wants it.
        """
        pixels = 16 * side * side // 9
        return cls(2 * rate, 4, MANY, MANY, pixels, pixels, image_patch_size=1)

    @property
    def factor(self) -> int:
        """Height and width of a frame are multiples of this many pixels: one token's side."""
        return self.image_patch_size * SPATIAL_MERGE
