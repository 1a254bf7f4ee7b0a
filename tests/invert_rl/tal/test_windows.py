"""Windows cover their video, keep the right ground truth and give back the video's rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from invert_rl.tal.windows import (
    cut_segments,
    merge_windows,
    padded_length,
    random_window,
    suppress_in_overlaps,
    window_starts,
)


@pytest.mark.parametrize("rows", [1, 99, 100, 101, 149, 150, 151, 730])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_windows_cover_the_video(rows: int, overlap: float) -> None:
    starts = window_starts(rows, 100, overlap)
    covered = {row for start in starts for row in range(start, min(start + 100, rows))}
    assert covered == set(range(rows))
    assert starts == sorted(set(starts))
    assert starts[-1] == max(0, rows - 100)


def test_starts_by_hand() -> None:
    assert window_starts(250, 100, 0.5) == [0, 50, 100, 150]
    assert window_starts(260, 100, 0.5) == [0, 50, 100, 150, 160]
    with pytest.raises(ValueError, match="overlap in"):
        window_starts(10, 5, 1.0)


def test_a_window_keeps_what_lies_in_it() -> None:
    segments = torch.tensor([[0.0, 10.0], [8.0, 12.0], [20.0, 30.0], [28.0, 40.0]])
    cut, index = cut_segments(segments, 9, 20, 0.75)
    assert index.tolist() == [1, 2]
    assert cut.tolist() == [[0.0, 3.0], [11.0, 20.0]]


def test_random_windows_hold_an_action() -> None:
    segments = torch.tensor([[400.0, 420.0]])
    generator = np.random.default_rng(0)
    for _ in range(50):
        start, length = random_window(segments, 500, 100, generator)
        assert length == 100
        assert 0 <= start <= 400
        assert len(cut_segments(segments, start, length)[1]) == 1
    lengths = {random_window(segments[:0], 80, 100, generator)[1] for _ in range(100)}
    assert min(lengths) == 72
    assert max(lengths) == 80
    assert random_window(segments[:0], 80, 100, generator, crop=None) == (0, 80)


def test_merged_windows_are_in_rows_of_the_video() -> None:
    part = (torch.tensor([[1.0, 2.0]]), torch.tensor([0.5]), torch.tensor([3]))
    segments, scores, labels = merge_windows([part, part], [0, 50])
    assert segments.tolist() == [[1.0, 2.0], [51.0, 52.0]]
    assert scores.tolist() == [0.5, 0.5]
    assert labels.tolist() == [3, 3]


def test_only_other_windows_suppress() -> None:
    segments = torch.tensor([[0.0, 10.0], [0.0, 10.0], [1.0, 10.0], [1.0, 10.0], [0.0, 10.0]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    labels = torch.tensor([0, 0, 0, 1, 0])
    window = torch.tensor([0, 0, 1, 1, 0])
    assert suppress_in_overlaps(segments, scores, labels, window).tolist() == [True, True, False, True, True]


def test_padding() -> None:
    assert padded_length(50, 64, 16) == 64
    assert padded_length(65, 64, 16) == 80
