"""Each loss of eq. 7 to 11 against hand values or another implementation."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from invert_rl.psftr.config import PSFTRConfig
from invert_rl.psftr.losses import psftr_losses, query_losses, saliency_loss, saliency_targets
from invert_rl.psftr.model import PSFTROutputs, QueryOutputs, build_psftr
from invert_rl.tal.nms import paired_iou
from tests.invert_rl.psftr.conftest import small_config

# two videos of 4 rows, 3 queries, 2 classes; queries 2 and 0 of the first video and 1 of the second are matched
LOGITS = torch.tensor([[[0.2, -0.4], [1.0, 0.5], [-0.3, 0.8]], [[0.1, 0.1], [0.7, -0.6], [0.0, 0.3]]])
SEGMENTS = torch.tensor([[[0.5, 0.2], [0.2, 0.2], [0.8, 0.4]], [[0.1, 0.1], [0.4, 0.4], [0.9, 0.2]]])
ACTIONNESS = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 0.0, -0.5]])
OUTPUTS = QueryOutputs(LOGITS, SEGMENTS, ACTIONNESS)
TRUTH = [torch.tensor([[0.8, 0.2], [0.5, 0.2]]), torch.tensor([[0.5, 0.4]])]
LABELS = [torch.tensor([1, 0]), torch.tensor([0])]
MATCHES = [(torch.tensor([0, 2]), torch.tensor([1, 0])), (torch.tensor([1]), torch.tensor([0]))]


def test_segments_by_hand() -> None:
    found = query_losses(OUTPUTS, MATCHES, TRUTH, LABELS, small_config())
    # exact; [.6, 1] for [.7, .9]; [.2, .6] for [.3, .7]
    assert float(found["l1"]) == pytest.approx((0.0 + 0.2 + 0.1) / 3, abs=1e-6)
    assert float(found["iou"]) == pytest.approx((0.0 + (1 - 0.2 / 0.4) + (1 - 0.3 / 0.5)) / 3, abs=1e-5)
    assert paired_iou(torch.tensor([[0.2, 0.2]]), torch.tensor([[0.2, 0.2]])).tolist() == [0.0]


def test_class_and_actionness_are_focal_over_all_queries() -> None:
    found = query_losses(OUTPUTS, MATCHES, TRUTH, LABELS, small_config(focal_alpha=0.3, focal_gamma=1.5))
    classes, actions = torch.zeros(2, 3, 2), torch.zeros(2, 3)
    for video, query, label in ((0, 2, 1), (0, 0, 0), (1, 1, 0)):
        classes[video, query, label] = actions[video, query] = 1.0
    expected = sigmoid_focal_loss(LOGITS, classes, 0.3, 1.5, reduction="sum") / 3
    assert float(found["class"]) == pytest.approx(float(expected), abs=1e-6)
    expected = sigmoid_focal_loss(ACTIONNESS, actions, 0.3, 1.5, reduction="sum") / 3
    assert float(found["actionness"]) == pytest.approx(float(expected), abs=1e-6)


def test_cross_entropy_is_over_matched_queries() -> None:
    def surprise(first: float, second: float) -> float:
        return math.log(1 + math.exp(second - first))

    found = query_losses(OUTPUTS, MATCHES, TRUTH, LABELS, small_config(class_loss="ce"))
    expected = (surprise(0.2, -0.4) + surprise(0.8, -0.3) + surprise(0.7, -0.6)) / 3
    assert float(found["class"]) == pytest.approx(expected, abs=1e-6)


def test_saliency_by_hand() -> None:
    mask = torch.tensor([[True] * 8, [True] * 4 + [False] * 4])
    segments = [torch.tensor([[0.3125, 0.125], [0.95, 0.1]]), torch.tensor([[0.5, 0.25]])]  # rows 2-3, 7.2-8; 1.5-2.5
    expected = [[0, 0, 1, 1, 0, 0, 0, 1], [0, 1, 1, 1, 0, 0, 0, 0]]
    targets = saliency_targets(mask, segments)
    assert targets.tolist() == expected
    logits = torch.linspace(-2, 2, 16).view(2, 8)
    terms = [
        -math.log(1 / (1 + math.exp(-value if hit else value)))
        for values, hits, rows in zip(logits.tolist(), expected, (8, 4), strict=True)
        for value, hit in zip(values[:rows], hits[:rows], strict=True)
    ]
    assert float(saliency_loss(logits, mask, segments)) == pytest.approx(sum(terms) / 12, abs=1e-6)


def test_total_is_weighted_and_auxiliary_layers_add_theirs() -> None:
    mask = torch.ones(2, 4, dtype=torch.bool)
    outputs = PSFTROutputs(LOGITS, SEGMENTS, ACTIONNESS, torch.zeros(2, 4), [])
    config = small_config(saliency_weight=7.0, class_weight=1.5)
    found = psftr_losses(outputs, mask, TRUTH, LABELS, config)
    parts = 1.5 * found["class"] + 5 * found["l1"] + 2 * found["iou"] + 3 * found["actionness"] + 7 * found["saliency"]
    assert float(found["loss"]) == pytest.approx(float(parts), abs=1e-5)
    assert float(found["saliency"]) == pytest.approx(math.log(2), abs=1e-6)
    outputs.earlier = [OUTPUTS]
    twice = psftr_losses(outputs, mask, TRUTH, LABELS, config)
    for name in ("class", "l1", "iou", "actionness"):
        assert float(twice[name]) == pytest.approx(2 * float(found[name]), abs=1e-5)
    assert float(twice["saliency"]) == float(found["saliency"])


def test_a_batch_without_ground_truth_teaches_that_nothing_happens() -> None:
    logits = LOGITS.clone().requires_grad_()
    outputs = PSFTROutputs(logits, SEGMENTS, ACTIONNESS, torch.zeros(2, 4), [])
    none = [torch.zeros(0, 2)] * 2, [torch.zeros(0, dtype=torch.long)] * 2
    found = psftr_losses(outputs, torch.ones(2, 4, dtype=torch.bool), *none, small_config())
    assert float(found["l1"]) == float(found["iou"]) == 0.0
    found["loss"].backward()
    assert (logits.grad > 0).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_only_the_cross_entropy_leaves_the_other_losses_a_say_at_the_published_scale(seed: int) -> None:
    """Gradients are clipped together: what one loss outweighs a hundred times is not trained at first."""
    generator = torch.Generator().manual_seed(seed)
    text, features = torch.randn(15, 512, generator=generator), torch.randn(2, 64, 512, generator=generator)
    mask = torch.ones(2, 64, dtype=torch.bool)
    segments = [torch.tensor([[0.3, 0.1], [0.7, 0.2]])] * 2
    labels = [torch.tensor([0, 0]), torch.tensor([3, 3])]

    def outweighs(loss: str) -> float:
        config = PSFTRConfig(class_loss=loss, encoder_layers=1, decoder_layers=1, feedforward=64)
        model = build_psftr(config, seed)
        found = psftr_losses(model(features, mask, text), mask, segments, labels, config)
        classes = config.class_weight * found["class"]
        norms = []
        for part in (classes, found["loss"] - classes):
            gradients = torch.autograd.grad(part, list(model.parameters()), retain_graph=True, allow_unused=True)
            norms.append(sum(float(one.square().sum()) for one in gradients if one is not None) ** 0.5)
        return norms[0] / norms[1]

    assert PSFTRConfig().class_loss == "ce"
    assert outweighs("ce") < 40
    assert outweighs("focal") > 100
