"""Seconds and rows: published offsets, both resize modes, lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data_prep.errors import DataError
from invert_rl.tal.grid import Grid, resize

THUMOS = Grid(fps=30, stride=4, clip=16)


def test_rows_are_put_at_the_middle_of_their_clip() -> None:
    assert THUMOS.seconds(0.0) == pytest.approx(8 / 30)
    assert THUMOS.row(10.0) == pytest.approx((10 * 30 - 0.5 * 16) / 4)
    assert THUMOS.row(THUMOS.seconds(np.arange(50.0))) == pytest.approx(np.arange(50.0))
    assert Grid(25, 16, 16, offset=0.0).row(16.0) == 25.0  # I3D of the weakly supervised methods: t * 25 / 16


def test_seconds_are_clipped_to_the_video() -> None:
    rows = torch.tensor([[-9.0, 3.0], [2.0, 1e4]])
    assert THUMOS.segments_in_seconds(rows, 60.0).tolist() == [
        [0.0, pytest.approx(20 / 30)],
        [pytest.approx(16 / 30), 60],
    ]


def test_length_is_checked() -> None:
    assert THUMOS.length(5094 / 30) == pytest.approx(1270.5)
    THUMOS.check_length(1269, 5094 / 30, "x.npy")
    with pytest.raises(DataError, match="x.npy: 635 rows.*make 1270.5"):
        THUMOS.check_length(635, 5094 / 30, "x.npy")


def test_window_keeps_the_time() -> None:
    assert THUMOS.window(100).seconds(7.0) == pytest.approx(THUMOS.seconds(107.0))


def test_resize_modes() -> None:
    grid = Grid(15, 16, 16)
    found = grid.resized(rows=100, size=192, duration=107.0)
    assert (found.stride, found.shift) == (pytest.approx(1600 / 192), pytest.approx(800 / 192))
    assert found.seconds(192 - 0.5) == pytest.approx(1600 / 15)  # the far border of the last row
    other = grid.resized(100, 128, 107.0, "opentad")
    assert other.seconds(64.0) == pytest.approx(53.5)
    with pytest.raises(ValueError, match="mode must be"):
        grid.resized(100, 128, 107.0, "cubic")


def test_resize_of_a_line_is_a_line() -> None:
    line = torch.arange(12.0)[:, None].repeat(1, 2)
    for mode in ("actionformer", "opentad"):
        assert resize(line, 6, mode)[:, 0].tolist() == pytest.approx([0.5, 2.5, 4.5, 6.5, 8.5, 10.5])
    with pytest.raises(ValueError, match="mode must be"):
        resize(line, 6, "cubic")


def test_grid_must_be_positive() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Grid(0, 4, 16)


def test_nearest_rows_as_gap_takes_them() -> None:
    """Row r of N is row floor(r * T / N) of the features, on the same grid as linear interpolation."""
    line = torch.arange(7.0)[:, None]
    assert resize(line, 4, "nearest")[:, 0].tolist() == [0.0, 1.0, 3.0, 5.0]
    assert resize(line, 10, "nearest")[:, 0].tolist() == [0, 0, 1, 2, 2, 3, 4, 4, 5, 6]
    grid = Grid(30.0, 16.0, 16.0)
    assert grid.resized(7, 4, 4.0, "nearest") == grid.resized(7, 4, 4.0)
