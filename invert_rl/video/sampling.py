"""Which frames of a video are shown and how large: the arithmetic, without any decoding."""

from __future__ import annotations

import math

import numpy as np
from qwen_vl_utils.vision_process import smart_nframes, smart_resize

from invert_rl.video.errors import VideoError
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import TEMPORAL_PATCH, FrameSettings


def video_of(ref: VideoRef, duration: float) -> tuple[float, float]:
    """The seconds ``[start, end)`` of a file of ``duration`` seconds that are the video: its clip, or all of it.

    Raises `VideoError` as `window_of`.
    """
    return window_of(VideoRef(ref.path, *(ref.clip or ())), duration)


def window_of(ref: VideoRef, duration: float) -> tuple[float, float]:
    """The seconds ``[start, end)`` that ``ref`` shows of a video of ``duration`` seconds.

    An end past the video's end is moved there. Raises `VideoError` for a window that is none, or that starts
    behind the end.
    """
    start = 0.0 if ref.start is None else float(ref.start)
    end = math.inf if ref.end is None else float(ref.end)
    if not 0 <= start < end:
        raise window_error(ref.path, start, end, "does not satisfy 0 <= start < end; repair the row")
    if start >= duration:
        raise window_error(ref.path, start, end, f"starts after the video's end at {duration:.3f} s; repair the row")
    return start, min(end, duration)


def window_error(path: str, start: float, end: float, reason: str) -> VideoError:
    """The error for a part that cannot be shown; it bears the window in its name, for the video itself is good."""
    return VideoError(f"{path} [{start:g}, {end:g}]", f"this window {reason}")


def frame_count(frames_in_window: int, seconds: float, settings: FrameSettings) -> int:
    """How many frames to show of a window of that many seconds (qwen-vl-utils' rule): an even number.

    Raises `ValueError` for fewer than two frames.
    """
    # 2 ms: Matroska rounds times to 1 ms, and 12 s at 2 fps must not become 11.999 s, hence 22 frames.
    rate = frames_in_window / (seconds + 0.002)
    limits = {"fps": settings.fps, "min_frames": settings.min_frames, "max_frames": settings.max_frames}
    return smart_nframes(limits, frames_in_window, rate)


def choose_frames(times: np.ndarray, start: float, end: float, settings: FrameSettings, path: str) -> np.ndarray:
    """Indices into ``times`` (seconds, ascending) of the frames to show of the window ``[start, end)``.

    n frames are shown for the times ``start + i * (end - start) / n``: uniform from the start, so that the
    spacing is 1 / sampled_fps exactly, as in Hugging Face's Qwen2-VL processor (qwen-vl-utils instead spreads
    its indices from the first to the last frame). For each the frame of the nearest presentation time is
    taken, the earlier one of two equally near. A window with n frames shows all of them, one with a single
    frame shows it twice. Raises `VideoError` for a window without a frame.
    """
    first, last = np.searchsorted(times, [start, end], side="left").tolist()
    inside = last - first
    if inside == 0:
        raise window_error(path, start, end, "holds no frame; widen it or leave the row out")
    if inside < TEMPORAL_PATCH:
        return np.repeat(first, TEMPORAL_PATCH)
    count = frame_count(inside, end - start, settings)
    if count == inside:
        return np.arange(first, last)
    return nearest(times, start + np.arange(count) * ((end - start) / count))


def nearest(times: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """For each target the index of the nearest of the ascending ``times``; of two as near, the earlier."""
    right = np.clip(np.searchsorted(times, targets), 1, max(1, len(times) - 1))
    right = np.minimum(right, len(times) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(targets - times[left] <= times[right] - targets, left, right)


def frame_size(height: int, width: int, count: int, settings: FrameSettings, path: str) -> tuple[int, int]:
    """Height and width in pixels of the frames of a ``count``-frame clip by qwen-vl-utils' pixel budget.

    Raises `VideoError` for a picture more than 200 times as long as wide.
    """
    least = settings.min_pixels
    share = settings.total_pixels / count * TEMPORAL_PATCH
    most = max(min(settings.max_pixels, share), int(least * 1.05))
    try:
        size = smart_resize(height, width, factor=settings.factor, min_pixels=least, max_pixels=most)
    except ValueError as error:
        raise VideoError(path, f"picture of {width} x {height} pixels: {error}") from error
    if min(size) == 0:  # its rule rounds a narrow side down to nothing
        raise VideoError(path, f"picture of {width} x {height} pixels: too narrow for {most:.0f} pixels a frame")
    return size
