"""How much of a video a model sees at most: frames, their size and tokens, from the frame settings alone."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from qwen_vl_utils.vision_process import FRAME_FACTOR, floor_by_factor, smart_nframes

from invert_rl.video.settings import TEMPORAL_PATCH, FrameSettings

USUAL_RATE = 30.0
"""Frames per second of a file, where it is not opened."""


@dataclass(frozen=True)
class VideoBudget:
    """Bounds of what one video takes."""

    frames: int
    """Frames shown."""
    frame_tokens: int
    """Most tokens of a grid step, which is two frames."""

    @property
    def steps(self) -> int:
        """Grid steps: pairs of frames."""
        return self.frames // TEMPORAL_PATCH

    @property
    def tokens(self) -> int:
        """Video tokens at most."""
        return self.steps * self.frame_tokens


def budget_of(seconds: float, settings: FrameSettings) -> VideoBudget:
    """What a window of that many seconds takes, in whatever size its frames come.

    A file is taken to have `USUAL_RATE` frames per second. A small picture takes less; none takes more, but for
    pictures more than four times as long as wide.
    """
    available = max(TEMPORAL_PATCH, int(seconds * USUAL_RATE))
    limits = {"fps": settings.fps, "min_frames": settings.min_frames, "max_frames": settings.max_frames}
    return _with_frames(smart_nframes(limits, available, available / max(seconds, 1e-9)), settings)


def largest_budget(settings: FrameSettings) -> VideoBudget:
    """The most that any video takes: at the pixel budget, or at the least pixels of as many frames as there may be."""
    most = max(TEMPORAL_PATCH, floor_by_factor(settings.max_frames, FRAME_FACTOR))
    smallest = int(settings.total_pixels * TEMPORAL_PATCH / (settings.min_pixels * 1.05)) + TEMPORAL_PATCH
    counts = [*range(TEMPORAL_PATCH, min(most, smallest) + 1, TEMPORAL_PATCH), most]  # above, more frames are more
    return max((_with_frames(count, settings) for count in counts), key=lambda budget: (budget.tokens, budget.frames))


def _with_frames(count: int, settings: FrameSettings) -> VideoBudget:
    share = settings.total_pixels / count * TEMPORAL_PATCH
    pixels = max(min(settings.max_pixels, share), int(settings.min_pixels * 1.05))  # as `frame_size` allows
    return VideoBudget(count, max(int(pixels // settings.factor**2), _enlarged(settings.min_pixels, settings.factor)))


@functools.cache
def _enlarged(pixels: int, factor: int) -> int:
    """Most tokens of a frame that is enlarged to at least ``pixels``: both of its sides are rounded up.

    Over pictures up to four times as long as wide.
    """
    least = pixels / factor**2
    ratios = (1 + step / 100 for step in range(301))
    return max(math.ceil(math.sqrt(least * ratio)) * math.ceil(math.sqrt(least / ratio)) for ratio in ratios)
