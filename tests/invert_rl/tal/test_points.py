"""Targets of points by hand, against a plain loop, and back to segments."""

from __future__ import annotations

import pytest
import torch

from invert_rl.tal.points import RANGES, label_points, make_points, segments_of

STRIDES = (1, 2, 4)
POINTS = make_points([16, 8, 4], STRIDES, ((0, 4), (4, 8), (8, 10000)), "cpu")


def test_points_have_no_half_cell_offset() -> None:
    assert POINTS.place[:3].tolist() == [0.0, 1.0, 2.0]
    assert POINTS.place[16:19].tolist() == [0.0, 2.0, 4.0]
    assert POINTS.stride[-1].item() == 4
    assert (POINTS.low[20].item(), POINTS.high[20].item()) == (4, 8)
    assert len(RANGES) == 6


def test_targets_by_hand() -> None:
    classes, offsets = label_points(POINTS, torch.tensor([[4.0, 8.0], [2.0, 14.0]]), torch.tensor([1, 0]), 2)
    of_short = torch.nonzero(classes[:, 1])[:, 0].tolist()
    assert of_short == [5, 6, 7]  # level 0: within 1.5 rows of row 6, inside, at most 4 rows to a border
    assert offsets[5].tolist() == [1.0, 3.0]
    of_long = torch.nonzero(classes[:, 0])[:, 0].tolist()
    # Level 1 (middle 8, 1.5 strides of 2 rows, borders within 4..8): rows 6, 8, 10; level 2 (8 and more): rows 4, 12.
    assert [(POINTS.place[i].item(), POINTS.stride[i].item()) for i in of_long] == [
        (6, 2),
        (8, 2),
        (10, 2),
        (4, 4),
        (12, 4),
    ]
    assert offsets[of_long[0]].tolist() == [2.0, 4.0]


def test_equal_lengths_give_both_classes_and_the_shortest_wins() -> None:
    classes, _ = label_points(POINTS, torch.tensor([[4.0, 8.0], [4.0, 8.0]]), torch.tensor([1, 0]), 2)
    assert classes[6].tolist() == [1.0, 1.0]
    classes, offsets = label_points(POINTS, torch.tensor([[3.0, 9.0], [5.0, 7.0]]), torch.tensor([0, 1]), 2)
    assert classes[6].tolist() == [0.0, 1.0]
    assert offsets[6].tolist() == [1.0, 1.0]
    assert label_points(POINTS, torch.zeros(0, 2), torch.zeros(0), 2)[0].sum() == 0


@pytest.mark.parametrize("radius", [None, 1.5])
def test_equals_a_loop(radius: float | None) -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.rand(6, generator=generator) * 10
    segments = torch.stack([start, start + 0.5 + torch.rand(6, generator=generator) * 8], dim=1)
    labels = torch.arange(6) % 3
    classes, offsets = label_points(POINTS, segments, labels, 3, radius)
    for p in range(len(POINTS)):
        t, stride = POINTS.place[p].item(), POINTS.stride[p].item()
        best = None
        for (s, e), label in zip(segments.tolist(), labels.tolist(), strict=True):
            low, high = s, e
            if radius is not None:
                low, high = max(s, (s + e) / 2 - radius * stride), min(e, (s + e) / 2 + radius * stride)
            far = max(t - s, e - t)
            fits = low < t < high and POINTS.low[p] <= far <= POINTS.high[p]
            if fits and (best is None or e - s < best[0]):
                best = (e - s, label, (t - s) / stride, (e - t) / stride)
        if best is None:
            assert classes[p].sum() == 0
        else:
            assert classes[p].argmax() == best[1]
            assert offsets[p].tolist() == pytest.approx(best[2:], abs=1e-4)


def test_offsets_give_the_segment_back() -> None:
    segments = torch.tensor([[4.0, 8.0], [2.0, 14.0]])
    classes, offsets = label_points(POINTS, segments, torch.tensor([0, 1]), 2)
    found = segments_of(POINTS, offsets)
    for p in torch.nonzero(classes.sum(dim=1))[:, 0].tolist():
        assert found[p].tolist() == pytest.approx(segments[int(classes[p].argmax())].tolist())
