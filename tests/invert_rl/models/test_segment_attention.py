"""The vision tower in few calls: transformers' results, for windows and frames of unequal sizes, with gradients."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText
from transformers.integrations import sdpa_attention

from invert_rl.models import load_model, segment_attention, vision_language_model

GRIDS = [[3, 10, 14], [2, 4, 4], [1, 18, 26]]
"""Frames whose sides are no multiple of a window, one smaller than a window, videos of unequal size."""


def tower_and_pixels(model, seed=0):
    tower = vision_language_model(model).visual
    grids = torch.tensor(GRIDS)
    generator = torch.Generator().manual_seed(seed)
    size = 3 * tower.config.temporal_patch_size * tower.config.patch_size**2
    return tower, torch.randn(int(grids.prod(dim=1).sum()), size, generator=generator), grids


def features_and_gradients(model):
    tower, pixels, grids = tower_and_pixels(model)
    tower.zero_grad()
    features = tower(pixels, grid_thw=grids).pooler_output
    features.square().sum().backward()
    return features.detach(), {name: p.grad.clone() for name, p in tower.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_equals_transformers(family_checkpoint, checkpointing):
    stock = AutoModelForImageTextToText.from_pretrained(family_checkpoint)
    ours = load_model(family_checkpoint)
    for model in (stock, ours):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    assert vision_language_model(ours).visual.config._attn_implementation == segment_attention.NAME
    expected, gradients = features_and_gradients(stock)
    found, others = features_and_gradients(ours)
    assert expected.abs().sum() > 1 and (expected - found).abs().max() <= 1e-5
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        assert (gradient - others[name]).norm() <= 1e-5 * gradient.norm() + 1e-9, name


def test_few_calls_and_one_look_at_where_segments_end(tiny_qwen2_5, monkeypatch):
    """A call for each size of segment and layer, where transformers has one for each segment."""
    calls, looks = [], []
    kernel, plan = segment_attention.scaled_dot_product_attention, segment_attention._plan
    monkeypatch.setattr(
        segment_attention, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or kernel(*a, **k)
    )
    monkeypatch.setattr(segment_attention, "_plan", lambda *a: looks.append(1) or plan(*a))
    stock_calls = []
    torch_kernel = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        sdpa_attention.torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *a, **k: stock_calls.append(1) or torch_kernel(*a, **k),
    )
    model = load_model(tiny_qwen2_5)
    tower = vision_language_model(model).visual
    pixels, grids = torch.randn(30 * 18 * 26, 1176), torch.tensor([[30, 18, 26]])
    with torch.no_grad():
        tower(pixels, grid_thw=grids)
        assert len(calls) == 3 + 1 and len(looks) == 2 and not stock_calls  # a layer of windows and one of frames
        tower.config._attn_implementation = "sdpa"
        tower(pixels, grid_thw=grids)
    assert len(stock_calls) == 360 + 30


def test_the_attention_is_not_saved(tiny_qwen3, tmp_path):
    load_model(tiny_qwen3).save_pretrained(tmp_path)
    assert segment_attention.NAME not in (tmp_path / "config.json").read_text()


def test_another_implementation_is_left_alone(tiny_qwen3):
    model = load_model(tiny_qwen3, attn_implementation="eager")
    assert vision_language_model(model).visual.config._attn_implementation == "eager"
