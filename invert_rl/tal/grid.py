"""The one map between seconds of a video and rows of its feature array."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data_prep.errors import DataError
from invert_rl.tal.align import roi_align_1d

Times = TypeVar("Times", float, np.ndarray, Tensor)

RESIZE_MODES = ("actionformer", "opentad", "nearest")
"""How resized features map to seconds: half a row apart."""
LENGTH_TOLERANCE = 2.0
"""Rows by which features may miss the length that the video's duration promises, …"""
LENGTH_SHARE = 0.05
"""… or this share of it, whichever is more: published durations and frame rates are rounded. A wrong frame rate (24 for
30) or stride misses by more."""


class LengthError(DataError):
    """Features that are fine but for their number of rows."""


@dataclass(frozen=True)
class Grid:
    """Row ``r`` stands for the clip of ``clip`` frames from frame ``r * stride`` on, at ``fps`` frames a second.

    ``offset`` (frames) is the point of the clip that the row is put at; None is its middle.
    """

    fps: float
    stride: float
    clip: float
    offset: float | None = None

    def __post_init__(self) -> None:
        if not (self.fps > 0 and self.stride > 0 and self.clip > 0):
            raise ValueError(f"fps, stride and clip must be positive: {self}")

    @property
    def shift(self) -> float:
        """Frames between a row's first frame and the point it is put at."""
        return self.clip / 2 if self.offset is None else self.offset

    def row(self, seconds: Times) -> Times:
        """Row of a time in seconds, not rounded: ``(t * fps - offset) / stride``."""
        return (seconds * self.fps - self.shift) / self.stride

    def seconds(self, row: Times) -> Times:
        """Time in seconds of a row: ``(row * stride + offset) / fps``."""
        return (row * self.stride + self.shift) / self.fps

    def segments_in_seconds(self, rows: Tensor, duration: float) -> Tensor:
        """Segments ``(N, 2)`` in rows as seconds, clipped to ``[0, duration]``."""
        return self.seconds(rows).clamp(0.0, duration)

    def length(self, duration: float) -> float:
        """Rows that a video of ``duration`` seconds should have, not rounded: ``(frames - clip) / stride + 1``."""
        return (duration * self.fps - self.clip) / self.stride + 1

    def check_length(self, rows: int, duration: float, where: str) -> None:
        """Raise `LengthError` where ``rows`` misses `length` by too much; ``where`` is the file."""
        expected = self.length(duration)
        if abs(rows - expected) > max(LENGTH_TOLERANCE, LENGTH_SHARE * expected):
            raise LengthError(
                f"{where}: {rows} rows, but {duration:g} s at {self.fps:g} fps, stride {self.stride:g} and clip "
                f"{self.clip:g} make {expected:.1f}; correct fps, stride or clip, or the duration, or extract again"
            )

    def window(self, start: int) -> Grid:
        """The grid of rows ``start`` and later, counted from 0 again."""
        return replace(self, offset=self.shift + start * self.stride)

    def resized(self, rows: int, size: int, duration: float, mode: str = "actionformer") -> Grid:
        """The grid of features of ``rows`` rows resized to ``size`` (see `resize`).

        ``actionformer``: stride ``((rows - 1) * stride + clip) / size``, rows put at their middle. ``opentad``:
        ``seconds = row / size * duration``, no offset. ``nearest``: as ``actionformer``. Raises `ValueError` for
        another ``mode``.
        """
        if mode in ("actionformer", "nearest"):
            stride = ((rows - 1) * self.stride + self.clip) / size
            return Grid(self.fps, stride, stride)
        if mode == "opentad":
            return Grid(size / duration, 1.0, 1.0, offset=0.0)
        raise ValueError(f"mode must be one of {RESIZE_MODES}, not {mode!r}")


def resize(features: Tensor, size: int, mode: str = "actionformer") -> Tensor:
    """Features ``(T, D)`` at ``size`` rows ``(size, D)``: linear interpolation, RoIAlign of the whole (``opentad``), or
    the row ``floor(row * T / size)`` (``nearest``, GAP's).

    OpenTAD does this in half precision; here the precision stays.
    """
    if mode == "nearest":
        return F.interpolate(features.T[None], size=size, mode="nearest")[0].T
    if mode == "actionformer":
        return F.interpolate(features.T[None], size=size, mode="linear", align_corners=False)[0].T
    if mode == "opentad":
        whole = torch.tensor([[0.0, 0.0, float(len(features))]], device=features.device)
        return roi_align_1d(features.T[None], whole, size, samples=0)[0].T
    raise ValueError(f"mode must be one of {RESIZE_MODES}, not {mode!r}")
