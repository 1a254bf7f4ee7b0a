"""Encoder, decoder and SPDE by themselves, against hand-written arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

from invert_rl.psftr.decoder import NARROW, refined
from invert_rl.psftr.encoder import SSAELayer
from invert_rl.psftr.layers import sine_positions, to_borders
from invert_rl.psftr.prototypes import SPDE, semantic_prototypes
from tests.invert_rl.psftr.conftest import small_config, small_model


def references(rows: int) -> torch.Tensor:
    return ((torch.arange(rows) + 0.5) / rows)[None, :, None, None]


def test_self_attention_of_the_video_equals_deformable_detr_on_a_map_one_row_high() -> None:
    """The layer's offsets and weights, sampled by the two-dimensional code of transformers."""
    layer = small_model().encoder.layers[0].self_video
    query, video = torch.randn(1, 9, 16), torch.randn(1, 9, 16)
    offsets = layer.offsets(query).view(1, 9, 4, 1, 3)
    weights = layer.weights(query).view(1, 9, 4, 3).softmax(-1).view(1, 9, 4, 1, 3)
    across = (torch.arange(9) + 0.5)[None, :, None, None, None] / 9 + offsets / 9
    places = torch.stack([across, torch.full_like(across, 0.5)], dim=-1)
    value = layer.value(video).view(1, 9, 4, 4)
    start = torch.tensor([0])
    sampled = MultiScaleDeformableAttention()(value, torch.tensor([[1, 9]]), [(1, 9)], start, places, weights, 64)
    found = layer(query, references(9), video, [9])
    assert torch.allclose(found, layer.output(sampled), atol=1e-5)


def test_without_offsets_a_row_attends_to_itself() -> None:
    layer = small_model().encoder.layers[0].self_video
    torch.nn.init.zeros_(layer.offsets.weight)
    torch.nn.init.zeros_(layer.offsets.bias)
    video = torch.randn(2, 9, 16)
    found = layer(torch.randn(2, 9, 16), references(9).expand(2, -1, -1, -1), video, [9])
    assert torch.allclose(found, layer.output(layer.value(video)), atol=1e-5)


def test_an_encoder_layer_is_equations_1_and_2() -> None:
    layer = SSAELayer(small_config(dropout=0.0)).eval()
    video, text, positions = torch.randn(1, 6, 16), torch.randn(1, 3, 16), torch.randn(1, 6, 16)
    mask = torch.ones(1, 6, dtype=torch.bool)

    def attend(module, query, other):
        """Multi-head attention written out."""
        weight, bias = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, other, other), weight, bias, strict=True))
        heads = [
            (a @ b.transpose(1, 2) / math.sqrt(a.shape[-1])).softmax(-1) @ c
            for a, b, c in zip(q.chunk(4, -1), k.chunk(4, -1), v.chunk(4, -1), strict=True)
        ]
        return module.out_proj(torch.cat(heads, dim=-1))

    own_video = layer.norm_video(video + layer.self_video(video + positions, references(6), video, [6]))
    own_text = layer.norm_text(text + attend(layer.self_text, text, text))
    fused_video = layer.norm_cross_video(attend(layer.cross_video, own_video, own_text) + own_video)
    fused_text = layer.norm_cross_text(attend(layer.cross_text, own_text, own_video) + own_text)

    def feedforward(module, x):
        first, second = module.layers[0], module.layers[3]
        return module.norm(x + second(F.relu(first(x))))

    found_video, found_text = layer(video, text, positions, references(6), mask)
    assert torch.allclose(found_video, feedforward(layer.feedforward_video, fused_video), atol=1e-5)
    assert torch.allclose(found_text, feedforward(layer.feedforward_text, fused_text), atol=1e-5)


def test_positions_are_shares_of_the_length() -> None:
    mask = torch.tensor([[True] * 8, [True] * 4 + [False] * 4])
    found = sine_positions(mask, 6)
    assert torch.allclose(found[1, :4], found[0, 1::2])  # row 1 of 4 is where row 2 of 8 ends
    assert found[0, 1, 0] == pytest.approx(math.sin(2 * math.pi * 2 / 8), abs=1e-6)
    assert found[0, 1, 3] == pytest.approx(math.cos(2 * math.pi * 2 / 8 / 10000 ** (2 / 6)), abs=1e-6)


def test_segments_are_refined_in_logits() -> None:
    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    first = refined(torch.tensor([[0.5]]), torch.tensor([[1.0, NARROW]]))
    assert first.tolist() == [[pytest.approx(sigmoid(1.0)), pytest.approx(sigmoid(-2.0))]]
    second = refined(first, torch.tensor([[-1.0, 2.5]]))
    assert second.tolist() == [[pytest.approx(0.5, abs=1e-6), pytest.approx(sigmoid(0.5))]]
    assert to_borders(torch.tensor([[0.5, 0.2], [0.1, 0.4]])).tolist() == [
        pytest.approx([0.4, 0.6]),
        pytest.approx([0.0, 0.3]),
    ]


@pytest.mark.parametrize("auxiliary", [False, True])
def test_each_layer_refines_the_segments_of_the_one_before(batch, auxiliary: bool) -> None:
    features, mask, text = batch
    decoder = small_model(auxiliary=auxiliary).decoder
    seen = []
    hook = decoder.layers[1].register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    _, segments = decoder(features, text.expand(3, -1, -1), mask)
    hook.remove()
    assert torch.allclose(seen[0], segments[0] * mask.float().mean(dim=1)[:, None, None])
    # with losses of its own every layer learns its own change only
    assert seen[0].requires_grad != auxiliary


def test_prototypes_are_equation_5() -> None:
    rng = np.random.default_rng(0)
    text, video = rng.standard_normal((3, 4)), rng.standard_normal((2, 5, 4))
    rows = [5, 3]
    expected = np.zeros((2, 3, 4))
    for number, length in enumerate(rows):
        for label in range(3):
            cosines = [
                video[number, row] @ text[label] / np.linalg.norm(video[number, row]) / np.linalg.norm(text[label])
                for row in range(length)
            ]
            weights = np.exp(7.0 * np.array(cosines))
            expected[number, label] = (weights / weights.sum()) @ video[number, :length]
    mask = torch.arange(5)[None] < torch.tensor(rows)[:, None]
    found = semantic_prototypes(torch.from_numpy(text), torch.from_numpy(video), mask, scale=7.0)
    assert np.allclose(found.numpy(), expected)
    plain = semantic_prototypes(torch.from_numpy(text), torch.from_numpy(video[:1]), mask[:1], scale=None)
    weights = np.exp(text @ video[0].T)
    assert np.allclose(plain[0].numpy(), weights / weights.sum(axis=1, keepdims=True) @ video[0])


def test_table_3_variants(batch) -> None:
    features, mask, text = batch
    queries = torch.randn(3, 7, 16)
    summary = semantic_prototypes(text, features, mask, 100.0).mean(dim=1, keepdim=True)
    plain = SPDE(small_config(spde="none"))(queries, text, features, mask)
    assert torch.equal(plain, queries)
    assert torch.allclose(SPDE(small_config(spde="residual"))(queries, text, features, mask), queries + summary)
    linear = SPDE(small_config(spde="linear"))
    assert torch.allclose(linear(queries, text, features, mask), queries + linear.layers(summary))
    mlp = SPDE(small_config(spde="mlp_residual"))
    expected = queries + mlp.layers[2](F.relu(mlp.layers[0](summary)))
    assert torch.allclose(mlp(queries, text, features, mask), expected, atol=1e-6)
    both = SPDE(small_config(spde="concat_mlp"))
    expected = both.layers(torch.cat([queries, summary.expand(-1, 7, -1)], dim=-1))
    assert torch.allclose(both(queries, text, features, mask), expected, atol=1e-6)
