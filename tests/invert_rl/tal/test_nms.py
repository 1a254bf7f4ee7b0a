"""Suppression against the published C++ (recorded), hand values, and torchvision's NMS."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.ops import nms

from invert_rl.tal.nms import Suppression, segment_iou, suppress, suppress_one_class, vote

CASES = json.loads((Path(__file__).parent / "nms_cases.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES)
def test_equals_the_published_extension(case: dict) -> None:
    settings = Suppression(
        case["method"], case["sigma"], case["iou_threshold"], case["min_score"], max_segments=0, per_class=False
    )
    index, scores = suppress_one_class(torch.tensor(case["segments"]), torch.tensor(case["scores"]), settings)
    assert index.tolist() == case["kept"]
    assert scores.tolist() == pytest.approx(case["kept_scores"], abs=1e-6)


def test_hard_equals_torchvision_on_boxes_of_one_height() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(200, generator=generator) * 50
    segments = torch.stack([start, start + 1 + 10 * torch.rand(200, generator=generator)], dim=1)
    scores = torch.rand(200, generator=generator)
    boxes = torch.stack([segments[:, 0], torch.zeros(200), segments[:, 1], torch.ones(200)], dim=1)
    index, _ = suppress_one_class(segments, scores, Suppression("hard", iou_threshold=0.4, max_segments=0))
    assert index.tolist() == nms(boxes, scores, 0.4).tolist()


def test_gaussian_by_hand() -> None:
    segments = torch.tensor([[0.0, 10.0], [5.0, 15.0], [40.0, 50.0]])
    settings = Suppression(sigma=0.5, max_segments=10)
    found, scores, labels = suppress(
        segments, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.long), settings
    )
    assert found.tolist() == segments[[0, 2, 1]].tolist()
    assert scores.tolist() == pytest.approx([0.9, 0.7, 0.8 * math.exp(-((1 / 3) ** 2) / 0.5)], abs=1e-6)
    assert labels.tolist() == [0, 0, 0]


def test_classes_are_apart_unless_asked_for_otherwise() -> None:
    segments = torch.tensor([[0.0, 10.0], [0.0, 10.0]])
    scores, labels = torch.tensor([0.9, 0.8]), torch.tensor([4, 1])
    settings = Suppression("hard", iou_threshold=0.5)
    assert suppress(segments, scores, labels, settings)[2].tolist() == [4, 1]
    assert suppress(segments, scores, labels, replace(settings, per_class=False))[2].tolist() == [4]


def test_keeps_at_most_so_many() -> None:
    segments = torch.arange(20.0).reshape(10, 2) * 10
    scores = torch.linspace(0.1, 1, 10)
    _, kept, _ = suppress(segments, scores, torch.arange(10) % 3, Suppression(max_segments=4))
    assert kept.tolist() == pytest.approx([1.0, 0.9, 0.8, 0.7])
    assert all(len(part) == 0 for part in suppress(segments[:0], scores[:0], torch.arange(0), Suppression()))


def test_extra_length_counts_touching_snippets_as_overlap() -> None:
    segments, scores = torch.tensor([[0.0, 4.0], [4.0, 8.0]]), torch.tensor([0.9, 0.8])
    plain = suppress_one_class(segments, scores, Suppression(sigma=0.3))[1]
    counted = suppress_one_class(segments, scores, Suppression(sigma=0.3, extra_length=1.0))[1]
    assert plain.tolist() == pytest.approx([0.9, 0.8])
    assert counted[1].item() == pytest.approx(0.8 * math.exp(-((1 / 9) ** 2) / 0.3), abs=1e-6)


def test_voting_by_hand() -> None:
    kept = torch.tensor([[0.0, 10.0]])
    segments = torch.tensor([[0.0, 10.0], [0.0, 8.0], [50.0, 60.0]])
    scores = torch.tensor([0.5, 1.0, 1.0])
    by_score = (0.5 * 10 + 1.0 * 8) / 1.5
    by_both = (0.5 * 10 + 0.8 * 8) / 1.3
    assert vote(kept, segments, scores, 0.7, "score")[0].tolist() == pytest.approx([0.0, by_score])
    assert vote(kept, segments, scores, 0.7)[0].tolist() == pytest.approx([0.0, by_both])
    settings = Suppression("hard", iou_threshold=0.5, per_class=False, voting_threshold=0.7)
    labels = torch.zeros(3, dtype=torch.long)
    refined = suppress(segments, torch.tensor([1.0, 0.9, 0.5]), labels, settings)[0]
    assert refined[0].tolist() == pytest.approx([0.0, (10 + 0.9 * 0.8 * 8) / (1 + 0.9 * 0.8)])
    assert refined[1].tolist() == pytest.approx([50.0, 60.0])


def test_iou() -> None:
    a, b = torch.tensor([[0.0, 4.0], [3.0, 3.0]]), torch.tensor([[2.0, 6.0], [3.0, 3.0]])
    assert segment_iou(a, b).flatten().tolist() == pytest.approx([2 / 6, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("wrong", [{"method": "soft"}, {"voting_weight": "iou"}])
def test_unknown_settings(wrong: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        Suppression(**wrong)
