"""Small models and batches of random features."""

from __future__ import annotations

import pytest
import torch

from invert_rl.psftr.config import PSFTRConfig
from invert_rl.psftr.model import PSFTR, build_psftr

SMALL = {
    "width": 16,
    "heads": 4,
    "points": 3,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "queries": 7,
    "feedforward": 24,
    "logit_scale": 10.0,
    "class_loss": "focal",
}


def small_config(**changes) -> PSFTRConfig:
    """A small model's config."""
    return PSFTRConfig(**{**SMALL, **changes})


def small_model(seed: int = 0, **changes) -> PSFTR:
    """A small model in evaluation mode whose segment heads, too, say something of their own."""
    model = build_psftr(small_config(**changes), seed).eval()
    with torch.no_grad():
        for head in model.decoder.segments:
            head.layers[-1].weight.normal_(0, 0.5)
        for name, parameter in model.named_parameters():
            if "offsets.weight" in name:
                parameter.normal_(0, 0.3)
    return model


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features ``(3, 19, 16)``, a mask of 19, 11 and 4 rows, and five class texts."""
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(3, 19, 16, generator=generator) * 3
    mask = torch.arange(19)[None] < torch.tensor([19, 11, 4])[:, None]
    return features, mask, torch.randn(5, 16, generator=generator)
