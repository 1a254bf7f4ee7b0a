"""Losses against torchvision's and by hand."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import distance_box_iou_loss

from invert_rl.tal.losses import LossNormalizer, diou_loss


def test_diou_equals_torchvision_on_boxes_without_height() -> None:
    generator = torch.Generator().manual_seed(0)
    offsets, targets = (torch.rand(50, 2, generator=generator, dtype=torch.double) * 9 for _ in range(2))

    def boxes(sides: torch.Tensor) -> torch.Tensor:
        low = torch.zeros(50, dtype=torch.double)
        return torch.stack([20 - sides[:, 0], low, 20 + sides[:, 1], low + 1e-3], dim=1)

    assert torch.allclose(
        diou_loss(offsets, targets).double(), distance_box_iou_loss(boxes(offsets), boxes(targets)), atol=1e-4
    )


def test_diou_by_hand() -> None:
    found = diou_loss(
        torch.tensor([[1.0, 3.0], [2.0, 2.0], [0.0, 0.0]]), torch.tensor([[2.0, 2.0], [2.0, 2.0], [1.0, 1.0]])
    )
    assert found.tolist() == pytest.approx([1 - 3 / 5 + (1 / 5) ** 2, 0.0, 1.0])


def test_normalizer_is_an_exponential_mean_that_is_saved() -> None:
    normalizer = LossNormalizer(100, 0.9)
    assert normalizer(50).item() == pytest.approx(95)
    assert normalizer(torch.tensor(0)).item() == pytest.approx(0.9 * 95 + 0.1)
    other = LossNormalizer()
    other.load_state_dict(normalizer.state_dict())
    other.eval()
    assert other(1000).item() == pytest.approx(85.6)
