"""Deformable attention along time: every query looks at a few points of each level (Zhu et al. 2021, TadTR)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sample_levels(value: Tensor, lengths: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of values at sampled places, ``(B, Q, H * E)`` (Deformable DETR, eq. 3).

    Takes values ``(B, sum(lengths), H, E)`` of all levels behind each other, locations ``(B, Q, H, L, P)`` in [0, 1]
    of the time axis (the middle of row r of a level of n rows is (r + 0.5) / n; outside is 0) and weights
    ``(B, Q, H, L, P)``.
    """
    batch, _, heads, width = value.shape
    queries, points = locations.shape[1], locations.shape[-1]
    total = value.new_zeros(batch, heads * width, queries)
    for level, rows in enumerate(value.split(list(lengths), dim=1)):
        image = rows.permute(0, 2, 3, 1).reshape(batch * heads, width, 1, -1)  # (B·H, E, 1, T)
        place = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1  # (B·H, Q, P) in [-1, 1]
        grid = torch.stack([place, torch.zeros_like(place)], dim=-1)
        sampled = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weight = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        total = total + (sampled * weight).sum(dim=-1).reshape(batch, heads * width, queries)
    return total.transpose(1, 2)


class DeformableAttention1d(nn.Module):
    """Multi-head deformable attention of queries over the rows of one or more levels."""

    def __init__(self, width: int, heads: int = 8, levels: int = 1, points: int = 4) -> None:
        """``width`` channels in ``heads`` heads; ``points`` samples per head and level."""
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads look to both sides in turn, point p at p + 1 rows; all points weigh the same."""
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        side = 1.0 - 2.0 * (torch.arange(self.heads) % 2)  # +1, -1, +1, …
        start = side[:, None, None] * (torch.arange(self.points) + 1.0)
        with torch.no_grad():
            self.offsets.bias.copy_(start.expand(self.heads, self.levels, self.points).flatten())
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        references: Tensor,
        values: Tensor,
        lengths: Sequence[int],
        mask: Tensor | None = None,
    ) -> Tensor:
        """Attended features ``(B, Q, D)``.

        Takes queries ``(B, Q, D)``, their references ``(B, Q, L, 1)`` (a point in [0, 1]; offsets count rows) or
        ``(B, Q, L, 2)`` (centre and length; offsets count halves of the length divided by the points), values
        ``(B, sum(lengths), D)`` and a mask ``(B, sum(lengths))`` that is true where a row counts.
        """
        value = self.value(values)
        if mask is not None:
            value = value * mask[..., None].to(value.dtype)
        value = value.unflatten(-1, (self.heads, -1))
        shape = (self.heads, self.levels, self.points)
        offsets = self.offsets(query).unflatten(-1, shape)
        weights = self.weights(query).unflatten(-1, (self.heads, -1)).softmax(dim=-1).unflatten(-1, shape[1:])
        centre = references[:, :, None, :, None, 0]
        if references.shape[-1] == 1:
            rows = torch.as_tensor(lengths, device=query.device, dtype=query.dtype)
            locations = centre + offsets / rows[:, None]
        else:
            locations = centre + offsets / self.points * references[:, :, None, :, None, 1] * 0.5
        return self.output(sample_levels(value, lengths, locations, weights))
