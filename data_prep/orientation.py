"""Turning decoded pictures upright by the display matrix that phones write beside the stream."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type

UNIT = 1 << 16
"""The matrix is in 16.16 fixed point."""


def upright(picture: np.ndarray, frame: Any) -> np.ndarray:
    """The picture (H, W, 3) of an `av.VideoFrame`, rotated or mirrored by its display matrix as players do.

    Handles the eight turns and mirrorings that keep rows and columns; any other angle leaves the picture as
    it is.
    """
    side_data = frame.side_data.get(Type.DISPLAYMATRIX)
    if side_data is None:
        return picture
    # x' = a x + c y, y' = b x + d y, y downwards; the matrix has the rows (a, b, u), (c, d, v), (x, y, w).
    a, b, _, c, d, _, _, _, _ = struct.unpack("=9i", bytes(side_data))
    a, b, c, d = (round(value / UNIT) for value in (a, b, c, d))
    if b == c == 0 and a and d:
        flip_columns, flip_rows = a < 0, d < 0
    elif a == d == 0 and b and c:
        picture = picture.transpose(1, 0, 2)
        flip_columns, flip_rows = c < 0, b < 0
    else:
        return picture
    if flip_rows:
        picture = picture[::-1]
    if flip_columns:
        picture = picture[:, ::-1]
    return picture
