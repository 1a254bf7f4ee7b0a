"""Points of a pyramid: where they lie, what each is to learn, and the segments that its outputs stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

RANGES = ((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 10000))
"""Longest distance to a border that each level answers for, in rows of level 0 (ActionFormer)."""
EPIC_RANGES = ((0, 4), (2, 8), (4, 16), (8, 32), (16, 64), (32, 10000))
SAME_LENGTH = 1e-3
"""Segments whose lengths differ by less are all targets of a point (rows)."""


@dataclass(frozen=True)
class Points:
    """Points of all levels behind each other: ``place``, ``low``, ``high`` and ``stride``, each ``(P,)`` in rows."""

    place: Tensor
    low: Tensor
    high: Tensor
    stride: Tensor

    def __len__(self) -> int:
        return len(self.place)


def make_points(
    lengths: Sequence[int], strides: Sequence[int], ranges: Sequence[tuple[float, float]], device: torch.device | str
) -> Points:
    """Points of levels of ``lengths`` rows: point i of a level lies at row ``i * stride`` of level 0."""
    place = [torch.arange(length) * stride for length, stride in zip(lengths, strides, strict=True)]
    counts = torch.tensor(list(lengths))
    of_level = [torch.tensor(values, dtype=torch.float32) for values in zip(*ranges, strict=True)]
    low, high = (values.repeat_interleave(counts).to(device) for values in of_level)
    stride = torch.tensor(list(strides), dtype=torch.float32).repeat_interleave(counts).to(device)
    return Points(torch.cat(place).float().to(device), low, high, stride)


def label_points(
    points: Points, segments: Tensor, labels: Tensor, num_classes: int, radius: float | None = 1.5
) -> tuple[Tensor, Tensor]:
    """What the points are to learn of one video: classes ``(P, C)`` in {0, 1} and offsets ``(P, 2)`` in strides.

    Takes segments ``(N, 2)`` in rows and class ids ``(N,)``. A point learns a segment where it lies within ``radius``
    strides of its middle and inside it (None: anywhere inside), and the farther border is within the level's range.
    Of several the shortest counts; all of that length within `SAME_LENGTH` give their class (ActionFormer, sec. 3.4).
    Offsets of points without a class mean nothing.
    """
    if not len(segments):
        return points.place.new_zeros(len(points), num_classes), points.place.new_zeros(len(points), 2)
    place, stride = points.place[:, None], points.stride[:, None]
    start, end = segments[:, 0].to(place.dtype), segments[:, 1].to(place.dtype)
    offsets = torch.stack([place - start, end - place], dim=-1)  # (P, N, 2)
    if radius is None:
        inside = offsets.amin(dim=-1) > 0
    else:
        middle = (start + end) / 2
        left = place - torch.maximum(middle - radius * stride, start)
        right = torch.minimum(middle + radius * stride, end) - place
        inside = torch.minimum(left, right) > 0
    farthest = offsets.amax(dim=-1)
    fits = inside & (farthest >= points.low[:, None]) & (farthest <= points.high[:, None])
    length = torch.where(fits, end - start, torch.inf)
    shortest, chosen = length.min(dim=1)
    among = fits & (length <= shortest[:, None] + SAME_LENGTH)
    one_hot = F.one_hot(labels.long(), num_classes).to(place.dtype)
    classes = (among.to(place.dtype) @ one_hot).clamp(max=1.0)
    return classes, offsets[torch.arange(len(points)), chosen] / stride


def segments_of(points: Points, offsets: Tensor) -> Tensor:
    """Segments ``(…, P, 2)`` in rows of offsets ``(…, P, 2)`` in strides; the inverse of `label_points`."""
    start = points.place - offsets[..., 0] * points.stride
    end = points.place + offsets[..., 1] * points.stride
    return torch.stack([start, end], dim=-1)
