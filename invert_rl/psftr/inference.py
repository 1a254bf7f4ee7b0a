"""Detections of whole videos (section 3.7.1): classes by RoIAlign of CLIP features, scores by actionness, merging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from data_prep.progress import progress
from invert_rl.psftr.layers import to_borders
from invert_rl.psftr.model import PSFTR, PSFTROutputs
from invert_rl.tal.align import roi_align_1d
from invert_rl.tal.data import Video, pad, results_of, window_of
from invert_rl.tal.windows import suppress_in_overlaps, window_starts

Detections = tuple[Tensor, Tensor, Tensor]
"""Segments ``(N, 2)``, scores ``(N,)`` and class ids ``(N,)``."""


def roi_probabilities(features: Tensor, mask: Tensor, borders: Tensor, text: Tensor, bins: int, scale: float) -> Tensor:
    """``(B, N_q, K)``: softmax over the classes of ``scale`` times the cosine of text and mean feature of a segment.

    Takes raw CLIP features ``(B, T, d)``, a mask ``(B, T)``, borders ``(B, N_q, 2)`` in [0, 1] of the rows that count
    and class texts ``(K, d)``. Rows that do not count are as if the last one that does went on.
    """
    batch, queries = borders.shape[:2]
    rows = mask.sum(dim=1)
    place = torch.minimum(torch.arange(mask.shape[1], device=mask.device)[None], rows[:, None] - 1)
    features = features.gather(1, place[..., None].expand_as(features)).transpose(1, 2)
    number = torch.arange(batch, device=mask.device).repeat_interleave(queries)
    spans = (borders * rows[:, None, None]).flatten(0, 1)
    means = roi_align_1d(features, torch.cat([number[:, None].to(spans.dtype), spans], dim=1), bins).mean(dim=-1)
    cosines = F.normalize(means, dim=-1) @ F.normalize(text, dim=-1).T
    return (scale * cosines).softmax(dim=-1).unflatten(0, (batch, queries))


def class_probabilities(model: PSFTR, outputs: PSFTROutputs, features: Tensor, mask: Tensor, text: Tensor) -> Tensor:
    """``(B, N_q, K)`` by ``config.class_source``: of the segments' CLIP features, of the queries, or their mean."""
    config = model.config
    parts = []
    if config.class_source in ("roi", "mean"):
        borders = to_borders(outputs.segments)
        parts.append(roi_probabilities(features, mask, borders, text, config.roi_bins, config.logit_scale))
    if config.class_source in ("query", "mean"):
        parts.append(outputs.logits.softmax(dim=-1))
    return torch.stack(parts).mean(dim=0)


@torch.no_grad()
def decode(model: PSFTR, outputs: PSFTROutputs, features: Tensor, mask: Tensor, text: Tensor) -> list[Detections]:
    """Each video's ``top`` detections, best first: borders in rows of the slice, from 0 to its length.

    The score of a class is its probability times the query's actionness.
    """
    scores = outputs.actionness.sigmoid()[..., None] * class_probabilities(model, outputs, features, mask, text)
    borders = to_borders(outputs.segments) * mask.sum(dim=1)[:, None, None]
    classes = scores.shape[-1]
    found = []
    for of_video, spans in zip(scores, borders, strict=True):
        best, place = of_video.flatten().topk(min(model.config.top, of_video.numel()))
        found.append((spans[place // classes], best, place % classes))
    return found


@torch.no_grad()
def detect(
    model: PSFTR,
    videos: Sequence[Video],
    text: Tensor,
    size: int | None,
    overlap: float = 0.25,
    fusion: float | None = 0.4,
    batch: int = 32,
) -> list[Detections]:
    """Detections of each video, best first, segments in rows as `Video` counts them.

    ``size`` cuts videos into slices of so many rows that overlap by ``overlap``; None takes each as a whole. A
    detection goes where a better one of its class from another slice overlaps it by ``fusion`` or more (None: all
    stay); within a slice nothing is suppressed. The model is left in evaluation mode.
    """
    model.eval()
    device = model.project.weight.device
    text = text.to(device)
    slices = [
        (number, start, window_of(video, start, size or len(video.features)))
        for number, video in enumerate(videos)
        for start in (window_starts(len(video.features), size, overlap) if size else [0])
    ]
    parts: list[list[tuple[int, Detections]]] = [[] for _ in videos]
    for first in progress(range(0, len(slices), batch), "detect"):
        chosen = slices[first : first + batch]
        padded = pad([window for _, _, window in chosen], size or 1)
        features, mask = padded.features.to(device), padded.mask.to(device)
        found = decode(model, model(features, mask, text), features, mask, text)
        for (number, start, _), (borders, scores, labels) in zip(chosen, found, strict=True):
            parts[number].append((start, (borders.cpu(), scores.cpu(), labels.cpu())))
    return [_merged(of_video, fusion) for of_video in parts]


def _merged(parts: list[tuple[int, Detections]], fusion: float | None) -> Detections:
    """Detections of all slices of a video; a border of b rows lies at row b - 0.5, as rows stand at their middle."""
    segments = torch.cat([borders + start - 0.5 for start, (borders, _, _) in parts])
    scores = torch.cat([scores for _, (_, scores, _) in parts])
    labels = torch.cat([labels for _, (_, _, labels) in parts])
    order = torch.argsort(scores, descending=True, stable=True)
    if fusion is not None and len(parts) > 1:
        window = torch.cat([torch.full_like(labels, number) for number, (_, (_, _, labels)) in enumerate(parts)])
        stays = suppress_in_overlaps(segments, scores, labels, window, fusion)
        order = order[stays[order]]
    return segments[order], scores[order], labels[order]


def detect_all(
    model: PSFTR, videos: Sequence[Video], classes: Sequence[str], text: Tensor, size: int | None, **options: Any
) -> dict[str, list[dict[str, Any]]]:
    """Results in seconds, as ``invert-rl evaluate-detection`` reads them; ``options`` as in `detect`."""
    found = detect(model, videos, text, size, **options)
    return results_of(((video, *of_video) for video, of_video in zip(videos, found, strict=True)), classes)
