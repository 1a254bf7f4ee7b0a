"""The language advantage against values worked out by hand (eq. 1 to 5, algorithm 1)."""

from __future__ import annotations

import math

import pytest
import torch

from invert_rl.actionvlm.advantage import (
    BACKGROUND,
    ClassMeans,
    FrameLosses,
    advantage_loss,
    aggregate,
    frame_classes,
    frame_losses,
    language_weight,
)
from invert_rl.tal.detector import DetectorLosses, DetectorOutputs
from invert_rl.tal.points import make_points


def test_the_weight_is_zero_exactly_where_the_advantage_is_not_positive():
    advantage = torch.tensor([-3.0, -1e-6, 0.0, 0.1, 1.0, 20.0])
    weight = language_weight(advantage)
    assert weight[:3].tolist() == [0.0, 0.0, 0.0]
    expected = [2 / (1 + math.exp(-value)) - 1 for value in (0.1, 1.0, 20.0)]
    torch.testing.assert_close(weight[3:], torch.tensor(expected))
    torch.testing.assert_close(weight[3:], torch.tanh(advantage[3:] / 2))
    assert float(language_weight(torch.tensor(1.0))) == pytest.approx(0.4621, abs=1e-4)


def test_aggregation_adds_weighed_language_to_vision():
    vision = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    language = torch.tensor([[[10.0, -10.0], [1.0, 1.0]]])
    got = aggregate(vision, language, torch.tensor([[0.5, 0.0]]))
    assert got.tolist() == [[[6.0, -3.0], [3.0, 4.0]]]


def test_a_frame_has_the_class_of_the_shortest_segment_over_it():
    segments = [torch.tensor([[2.0, 4.0], [0.0, 6.0], [7.6, 8.4]])]
    classes = frame_classes(segments, [torch.tensor([3, 1, 0])], 10)
    assert classes.tolist() == [[1, 1, 3, 3, 3, 1, 1, BACKGROUND, 0, BACKGROUND]]


def outputs_of(mask: torch.Tensor, lengths: list[int], strides: list[int]) -> DetectorOutputs:
    points = make_points(lengths, strides, [(0, 4)] * len(lengths), "cpu")
    batch = len(mask)
    return DetectorOutputs(torch.zeros(batch, len(points), 2), torch.zeros(batch, len(points), 2), mask, points)


def losses_of(classification: list[float], regression: list[float], targets: list[list[float]]) -> DetectorLosses:
    zero = torch.zeros(())
    return DetectorLosses(
        zero, zero, zero, torch.tensor([classification]), torch.tensor([regression]), torch.tensor([targets])
    )


def test_a_frame_has_the_mean_loss_of_the_positive_points_whose_cell_holds_it():
    """Two levels over four rows: points at 0, 1, 2, 3 and at 0, 2 with cells of two rows."""
    outputs = outputs_of(torch.ones(1, 6, dtype=torch.bool), [4, 2], [1, 2])
    yes, no = [0.0, 1.0], [0.0, 0.0]
    losses = losses_of([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], [0.0, 0.5, 0.0, 0.0, 0.25, 0.0], [no, yes, no, no, yes, no])
    classes = torch.tensor([[1, 1, 1, BACKGROUND]])
    got = frame_losses(outputs, losses, classes, regression_weight=2.0)
    # row 0: the coarse point 0 alone; row 1: fine point 1 (2 + 2 * .5) and coarse point 0 (16 + 2 * .25); row 2: none
    assert got.value.tolist() == [[16.5, (3.0 + 16.5) / 2, 0.0, 0.0]]
    assert got.known.tolist() == [[True, True, False, False]]


def test_by_sample_all_frames_of_actions_have_the_loss_per_positive_point():
    outputs = outputs_of(torch.tensor([[True, True, True, False]]), [4], [1])
    yes, no = [0.0, 1.0], [0.0, 0.0]
    losses = losses_of([1.0, 2.0, 4.0, 8.0], [0.0, 0.5, 0.5, 0.0], [no, yes, yes, no])
    classes = torch.tensor([[BACKGROUND, 1, 1, BACKGROUND]])
    got = frame_losses(outputs, losses, classes, granularity="sample")
    assert got.value.tolist() == [[0.0, 4.0, 4.0, 0.0]]
    with pytest.raises(ValueError, match="granularity"):
        frame_losses(outputs, losses, classes, granularity="video")


def frames(values: list[float], classes: list[int], known: list[bool] | None = None) -> FrameLosses:
    ids = torch.tensor([classes])
    there = torch.tensor([known]) if known is not None else ids != BACKGROUND
    return FrameLosses(torch.tensor([values]), there, ids)


def test_class_means_are_those_of_the_last_vision_only_epoch():
    means = ClassMeans(3)
    means.enter(0, vision_only=True)
    means.add(frames([1.0, 3.0, 9.0], [0, 0, 1]))
    means.enter(0, vision_only=True)
    means.add(frames([5.0, 7.0, 100.0], [0, BACKGROUND, 2], [True, False, False]))
    assert means.mean.tolist() == [3.0, 9.0, 0.0]
    assert means.seen.tolist() == [True, True, False]
    means.enter(1, vision_only=False)
    assert means.mean.tolist() == [3.0, 9.0, 0.0]
    means.enter(2, vision_only=True)
    means.add(frames([2.0], [0]))
    assert means.mean.tolist() == [2.0, 9.0, 0.0]  # class 1 did not come up: it keeps its mean


def test_by_sample_every_video_counts_once_for_each_of_its_classes():
    means = ClassMeans(2)
    means.enter(0, vision_only=True)
    means.add(frames([4.0, 4.0, 4.0, 4.0], [0, 0, 0, 1]), per_sample=True)
    means.add(frames([1.0, 1.0], [0, BACKGROUND], [True, False]), per_sample=True)
    assert means.mean.tolist() == pytest.approx([2.5, 4.0])


def test_targets_on_two_segments():
    """Class 0 has mean 2, class 1 mean 1; class 2 was never seen; one row is padding."""
    means = ClassMeans(3)
    means.enter(0, vision_only=True)
    means.add(frames([2.0, 1.0], [0, 1]))
    means.enter(1, vision_only=False)
    batch = frames(
        [0.5, 3.0, 0.0, 0.25, 0.0, 9.0, 0.0],
        [0, 0, BACKGROUND, 1, 1, 2, BACKGROUND],
        [True, True, False, True, False, True, False],
    )
    mask = torch.tensor([[True] * 6 + [False]])
    target, counts = means.advantage(batch, mask)
    assert target.tolist() == [[1.5, -1.0, 0.0, 0.75, 0.0, 0.0, 0.0]]
    assert counts.tolist() == [[True, True, True, True, False, False, False]]
    predicted = torch.zeros(1, 7, requires_grad=True)
    loss = advantage_loss(predicted, target, counts)
    assert float(loss.detach()) == pytest.approx((1.5**2 + 1.0 + 0.0 + 0.75**2) / 4)
    loss.backward()
    assert (predicted.grad != 0).tolist() == [[True, True, False, True, False, False, False]]
