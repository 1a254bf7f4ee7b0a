"""Parts that encoder and decoder share: FFN, MLP, positions, coordinates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-5
"""Distance that coordinates keep from 0 and 1 before the inverse sigmoid (DETR)."""


class FeedForward(nn.Module):
    """``LayerNorm(x + MLP(x))``, the equations' FFN; they print no residual around it, DETR has one [C]."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        """``hidden`` channels between the two linear layers."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width), nn.Dropout(dropout)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(..., width)`` to the same shape."""
        return self.norm(features + self.layers(features))


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int) -> None:
        """``layers`` linear layers in all."""
        super().__init__()
        sizes = [inputs] + [hidden] * (layers - 1) + [outputs]
        self.layers = nn.ModuleList(nn.Linear(first, second) for first, second in zip(sizes, sizes[1:], strict=False))

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(..., inputs)`` to ``(..., outputs)``."""
        for layer in self.layers[:-1]:
            features = F.relu(layer(features))
        return self.layers[-1](features)


def sine_positions(mask: Tensor, width: int) -> Tensor:
    """Sine embedding ``(B, T, width)`` of rows as shares of their video's length, by a mask ``(B, T)`` [R TadTR]."""
    rows = mask.cumsum(dim=1, dtype=torch.float32)
    share = rows / rows[:, -1:].clamp(min=1) * 2 * math.pi
    steps = torch.arange(width // 2, device=mask.device, dtype=torch.float32)
    angles = share[..., None] / 10000 ** (2 * steps / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(2)


def inverse_sigmoid(value: Tensor) -> Tensor:
    """The logit of a coordinate in [0, 1], finite also at its ends."""
    return torch.logit(value.clamp(EPSILON, 1 - EPSILON))


def to_borders(segments: Tensor) -> Tensor:
    """Segments ``(..., 2)`` as centre and width to start and end, cut to [0, 1]."""
    centre, width = segments.unbind(dim=-1)
    return torch.stack([centre - width / 2, centre + width / 2], dim=-1).clamp(0, 1)
