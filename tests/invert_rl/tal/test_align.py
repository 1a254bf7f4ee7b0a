"""RoIAlign and deformable attention along time against their two-dimensional twins and by hand."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import roi_align
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

from invert_rl.tal.align import interpolate_rows, roi_align_1d
from invert_rl.tal.deformable import DeformableAttention1d, sample_levels


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 1, 3])
def test_equals_torchvision_on_images_one_pixel_wide(aligned: bool, samples: int) -> None:
    generator = torch.Generator().manual_seed(samples)
    features = torch.randn(3, 5, 40, generator=generator)
    start = torch.rand(30, generator=generator) * 45 - 4  # some leave the features
    segments = torch.stack(
        [torch.randint(3, (30,), generator=generator), start, start + torch.rand(30, generator=generator) * 25], dim=1
    )
    across = torch.zeros(30)
    boxes = torch.stack([segments[:, 0], across, segments[:, 1], across + 1, segments[:, 2]], dim=1)
    expected = roi_align(features[..., None], boxes, (8, 1), 1.0, samples, aligned)[..., 0]
    assert torch.allclose(roi_align_1d(features, segments, 8, samples, aligned), expected, atol=1e-5)


def test_part_means_by_hand() -> None:
    features = torch.tensor([[[0.0, 10.0, 20.0, 30.0]]])
    whole = torch.tensor([[0.0, 0.0, 4.0]])
    assert roi_align_1d(features, whole, 2, samples=2).flatten().tolist() == [5.0, 25.0]
    assert roi_align_1d(features, whole, 4, samples=1).flatten().tolist() == [0.0, 10.0, 20.0, 30.0]
    assert interpolate_rows(features, torch.tensor([[1.5, -0.5, -2.0, 3.9]])).flatten().tolist() == [15.0, 0, 0, 30.0]
    assert roi_align_1d(features, torch.zeros(0, 3), 4).shape == (0, 1, 4)


def test_gradient_reaches_the_features() -> None:
    features = torch.randn(1, 2, 10, dtype=torch.double, requires_grad=True)
    segments = torch.tensor([[0.0, 1.3, 7.9]], dtype=torch.double)
    assert torch.autograd.gradcheck(lambda f: roi_align_1d(f, segments, 3), (features,))


def test_sampling_equals_deformable_detr_on_images_one_row_high() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths, heads, points = [12, 6, 3], 4, 3
    value = torch.randn(2, sum(lengths), heads, 8, generator=generator)
    locations = torch.rand(2, 7, heads, 3, points, generator=generator) * 1.4 - 0.2
    weights = torch.rand(2, 7, heads, 3, points, generator=generator)
    shapes = [(1, length) for length in lengths]
    flat = torch.stack([locations, torch.full_like(locations, 0.5)], dim=-1)
    starts = torch.tensor([0, 12, 18])
    expected = MultiScaleDeformableAttention()(value, torch.tensor(shapes), shapes, starts, flat, weights, 64)
    assert torch.allclose(sample_levels(value, lengths, locations, weights), expected, atol=1e-5)


def test_no_offset_and_one_point_is_the_value_at_the_reference() -> None:
    layer = DeformableAttention1d(8, heads=2, levels=1, points=1)
    torch.nn.init.zeros_(layer.offsets.bias)
    for part in (layer.value, layer.output):
        torch.nn.init.eye_(part.weight)
    values = torch.randn(1, 10, 8)
    references = ((torch.arange(10) + 0.5) / 10)[None, :, None, None]
    found = layer(torch.randn(1, 10, 8), references, values, [10])
    assert torch.allclose(found, values, atol=1e-5)


def test_offsets_start_as_rows_or_as_parts_of_the_reference() -> None:
    layer = DeformableAttention1d(4, heads=2, levels=1, points=1)
    for part in (layer.value, layer.output):
        torch.nn.init.eye_(part.weight)
    values = torch.arange(10.0)[None, :, None].repeat(1, 1, 4)
    point = torch.full((1, 1, 1, 1), 0.55)  # row 5
    assert layer(torch.zeros(1, 1, 4), point, values, [10]).flatten().tolist() == pytest.approx([6, 6, 4, 4])
    span = torch.tensor([0.55, 0.4]).view(1, 1, 1, 2)  # half of the length is two rows
    assert layer(torch.zeros(1, 1, 4), span, values, [10]).flatten().tolist() == pytest.approx([7, 7, 3, 3])


def test_masked_rows_give_nothing() -> None:
    layer = DeformableAttention1d(8, heads=2)
    values, references = torch.randn(1, 6, 8), torch.rand(1, 3, 1, 1)
    mask = torch.tensor([[True, True, True, False, False, False]])
    query = torch.randn(1, 3, 8)
    changed = torch.where(mask[..., None], values, torch.randn(1, 6, 8))
    assert torch.equal(layer(query, references, values, [6], mask), layer(query, references, changed, [6], mask))
    assert not torch.equal(layer(query, references, values, [6]), layer(query, references, changed, [6]))


def test_width_must_fit_the_heads() -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        DeformableAttention1d(10, heads=4)
