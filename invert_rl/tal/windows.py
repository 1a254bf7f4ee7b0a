"""Long videos in windows: where to cut, which ground truth a window keeps, and detections put together again."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from invert_rl.tal.nms import segment_iou

TRIALS = 200
"""Random windows that are tried for one with an action in it (ActionFormer, OpenTAD)."""


def window_starts(rows: int, size: int, overlap: float = 0.5) -> list[int]:
    """First rows of windows of ``size`` rows that cover ``rows`` rows, neighbours overlapping by ``overlap`` of a size.

    The last window ends with the video; a video that is not longer than one window is one window.
    """
    if size < 1 or not 0 <= overlap < 1:
        raise ValueError(f"size must be positive and overlap in [0, 1): {size}, {overlap}")
    step = max(1, round(size * (1 - overlap)))
    starts = list(range(0, max(1, rows - size + 1), step))
    if starts[-1] + size < rows:
        starts.append(rows - size)
    return starts


def cut_segments(segments: Tensor, start: int, size: int, least: float = 0.75) -> tuple[Tensor, Tensor]:
    """Segments ``(M, 2)`` of a window, counted from its start and clipped to it, and their indices ``(M,)``.

    Takes segments ``(N, 2)`` in rows; those that lie in the window by at least ``least`` of their length stay.
    """
    clipped = segments.clamp(start, start + size)
    inside = (clipped[:, 1] - clipped[:, 0]) / (segments[:, 1] - segments[:, 0]).clamp(min=1e-8)
    index = torch.nonzero(inside >= least)[:, 0]
    return clipped[index] - start, index


def random_window(
    segments: Tensor,
    rows: int,
    size: int,
    generator: np.random.Generator,
    least: float = 0.75,
    crop: tuple[float, float] | None = (0.9, 1.0),
) -> tuple[int, int]:
    """``(start, length)`` of a training window of a video of ``rows`` rows that keeps at least one segment.

    Of a longer video ``size`` rows; of another one a share between the two of ``crop`` (None: all of it). After
    `TRIALS` windows without a segment the last one is taken. ``least`` as in `cut_segments`.
    """
    length = min(rows, size)
    if rows <= size and crop is not None:
        low, high = max(1, round(crop[0] * rows)), min(rows, round(crop[1] * rows))
        length = int(generator.integers(low, max(low, high) + 1))
    start = 0
    for _ in range(TRIALS):
        start = int(generator.integers(0, rows - length + 1))
        if not len(segments) or len(cut_segments(segments, start, length, least)[1]):
            break
    return start, length


def merge_windows(parts: list[tuple[Tensor, Tensor, Tensor]], starts: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Detections of all windows of a video: segments ``(N, 2)`` in rows of the video, scores ``(N,)``, labels ``(N,)``.

    Each part holds those of one window, in rows of the window, which began at row ``start``. Suppress afterwards.
    """
    segments = torch.cat([segments + start for (segments, _, _), start in zip(parts, starts, strict=True)])
    return segments, torch.cat([scores for _, scores, _ in parts]), torch.cat([labels for _, _, labels in parts])


def suppress_in_overlaps(
    segments: Tensor, scores: Tensor, labels: Tensor, window: Tensor, threshold: float = 0.4
) -> Tensor:
    """Mask ``(N,)`` of detections that stay when only those of other windows may suppress them.

    For models that need no suppression within a window (DETR and its kin): a detection goes where a better one of its
    class, from another ``window`` ``(N,)``, overlaps it by at least ``threshold`` (GAP, TadTR).
    """
    order = torch.argsort(scores, descending=True, stable=True)
    rival = (segment_iou(segments, segments) >= threshold) & (labels[:, None] == labels) & (window[:, None] != window)
    stays = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    for index in order.tolist():
        if stays[index]:
            better = torch.zeros_like(stays)
            better[index] = True
            stays &= ~(rival[index] & (scores <= scores[index])) | better
    return stays


def padded_length(rows: int, size: int, multiple: int) -> int:
    """Rows to pad to: ``size`` where that is enough, else the next multiple of ``multiple``."""
    return size if rows <= size else math.ceil(rows / multiple) * multiple
