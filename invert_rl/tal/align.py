"""RoIAlign along time: the features of a segment at a fixed number of points (He et al. 2017, in one dimension)."""

from __future__ import annotations

import torch
from torch import Tensor


def interpolate_rows(features: Tensor, rows: Tensor) -> Tensor:
    """Features ``(K, C, T)`` at real rows ``(K, S)``, ``(K, C, S)``, linear between rows.

    Up to one row outside, the border's value; further outside, 0 (as in torchvision's RoIAlign).
    """
    length = features.shape[-1]
    inside = (rows >= -1) & (rows <= length)
    rows = rows.clamp(0, length - 1)
    low = rows.floor().long().clamp(max=length - 1)
    high = (low + 1).clamp(max=length - 1)
    share = (rows - low).to(features.dtype)[:, None]
    channels = features.shape[1]
    before = features.gather(2, low[:, None].expand(-1, channels, -1))
    after = features.gather(2, high[:, None].expand(-1, channels, -1))
    return (before * (1 - share) + after * share) * inside[:, None]


def roi_align_1d(features: Tensor, segments: Tensor, bins: int, samples: int = 2, aligned: bool = True) -> Tensor:
    """Mean features of ``bins`` equal parts of each segment, ``(K, C, bins)``.

    Takes features ``(B, C, T)`` and segments ``(K, 3)``: batch index, start and end in rows. Each part is sampled at
    ``samples`` points (0: one per row that it spans). ``aligned`` puts the middle of row r at r + 0.5, so that the
    segment [0, T] is the whole.
    """
    if not len(segments):
        return features.new_zeros(0, features.shape[1], bins)
    shift = 0.5 if aligned else 0.0
    start, end = segments[:, 1] - shift, segments[:, 2] - shift
    length = end - start if aligned else (end - start).clamp(min=1.0)
    spanned = torch.ceil(length / bins).clamp(min=1)
    count = torch.full_like(length, samples) if samples > 0 else spanned
    most = int(count.max())
    point = torch.arange(most, device=features.device, dtype=length.dtype)
    within = (point + 0.5) / count[:, None]  # (K, S) places in a bin, in [0, 1) where they count
    counts = (point < count[:, None]).to(features.dtype)
    part = torch.arange(bins, device=features.device, dtype=length.dtype)
    rows = start[:, None, None] + (part[:, None] + within[:, None]) * (length / bins)[:, None, None]  # (K, bins, S)
    values = interpolate_rows(features[segments[:, 0].long()], rows.flatten(1))
    values = values.unflatten(2, (bins, most)) * counts[:, None, None]
    return values.sum(dim=-1) / count[:, None, None].to(features.dtype)
