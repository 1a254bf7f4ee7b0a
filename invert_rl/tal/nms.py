"""Suppression of overlapping segments, soft and hard, and voting, without a compiled extension.

Numbers equal those of the C++ that ActionFormer and OpenTAD ship (``nms_1d_cpu``) in single precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 1e-6
"""Added to every length before it divides, as in the published code."""
METHODS = ("gaussian", "linear", "hard")


@dataclass(frozen=True)
class Suppression:
    """How overlapping detections of one video are suppressed."""

    method: str = "gaussian"
    """``gaussian`` (score times exp(-IoU²/sigma)), ``linear`` (times 1 - IoU from ``iou_threshold`` on), ``hard``."""
    sigma: float = 0.5
    """Of ``gaussian``; ActionFormer: 0.5 on THUMOS14, 0.75 on ActivityNet, 0.4 on EPIC-KITCHENS."""
    iou_threshold: float = 0.1
    """Of ``linear`` and ``hard``."""
    min_score: float = 0.001
    """A detection that falls below is dropped."""
    max_segments: int = 200
    """Detections kept per video, and before that per class; 0: all."""
    per_class: bool = True
    """Whether classes are suppressed apart; if not, a segment suppresses those of other classes too."""
    voting_threshold: float = 0.0
    """Refine the borders of what is kept by the segments that overlap at least so much; 0: do not. Only where
    ``per_class`` is false, as published."""
    voting_weight: str = "score_iou"
    """``score_iou`` (ActionFormer) or ``score`` (OpenTAD)."""
    extra_length: float = 0.0
    """Added to lengths and intersections; DELU counts in snippets and adds 1."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, not {self.method!r}")
        if self.voting_weight not in ("score_iou", "score"):
            raise ValueError(f"voting_weight must be score_iou or score, not {self.voting_weight!r}")


def segment_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of segments ``(N, 2)`` with segments ``(M, 2)``, ``(N, M)``; 0 where both are empty."""
    return paired_iou(first[:, None], second[None])


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of segments ``(…, 2)`` with those at the same places, ``(…,)``; 0 where both are empty."""
    shared = (torch.minimum(first[..., 1], second[..., 1]) - torch.maximum(first[..., 0], second[..., 0])).clamp(min=0)
    union = (first[..., 1] - first[..., 0]) + (second[..., 1] - second[..., 0]) - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).eps)


def suppress(segments: Tensor, scores: Tensor, labels: Tensor, settings: Suppression) -> tuple[Tensor, Tensor, Tensor]:
    """The detections of one video that stay, best first: segments ``(M, 2)``, scores ``(M,)``, labels ``(M,)``.

    Takes segments ``(N, 2)`` in any unit, scores ``(N,)`` and class ids ``(N,)``.
    """
    if not len(segments):
        return segments, scores, labels
    if settings.per_class:
        groups = [torch.nonzero(labels == label)[:, 0] for label in torch.unique(labels)]
    else:
        groups = [torch.arange(len(labels), device=labels.device)]
    kept, new_scores = [], []
    for group in groups:
        chosen, decayed = suppress_one_class(segments[group], scores[group], settings)
        kept.append(group[chosen])
        new_scores.append(decayed)
    index, decayed = torch.cat(kept), torch.cat(new_scores)
    order = torch.argsort(decayed, descending=True, stable=True)
    order = order[: settings.max_segments or None]
    index, decayed = index[order], decayed[order]
    chosen_segments = segments[index]
    if settings.voting_threshold > 0 and not settings.per_class:
        chosen_segments = vote(chosen_segments, segments, scores, settings.voting_threshold, settings.voting_weight)
    return chosen_segments, decayed, labels[index]


def suppress_one_class(segments: Tensor, scores: Tensor, settings: Suppression) -> tuple[Tensor, Tensor]:
    """Indices ``(M,)`` of the segments ``(N, 2)`` that stay, in the order of choice, and their scores ``(M,)``.

    Soft suppression multiplies the scores of what is left after each choice and drops what falls below ``min_score``;
    the first choice stays whatever its score. Of equal scores the first in the input is chosen first.
    """
    device = scores.device
    start, end = segments[:, 0].float().cpu(), segments[:, 1].float().cpu()
    value = scores.float().cpu()
    length = end - start + settings.extra_length + EPSILON * (settings.extra_length == 0)
    index = torch.arange(len(value))
    if settings.method == "hard" and settings.min_score > 0:
        index = index[value > settings.min_score]
    start, end, value, length = start[index], end[index], value[index], length[index]
    chosen: list[Tensor] = []
    decayed: list[Tensor] = []
    while len(index) and (settings.max_segments <= 0 or len(chosen) < settings.max_segments):
        best = int(torch.argmax(value))
        chosen.append(index[best])
        decayed.append(value[best])
        shared = torch.minimum(end[best], end) - torch.maximum(start[best], start) + settings.extra_length
        shared = shared.clamp(min=0)
        overlap = shared / (length[best] + length - shared)
        if settings.method == "gaussian":
            value = value * torch.exp(-(overlap * overlap) / settings.sigma)
        elif settings.method == "linear":
            value = torch.where(overlap >= settings.iou_threshold, value * (1 - overlap), value)
        hard = settings.method == "hard"
        stays = overlap < settings.iou_threshold if hard else value >= settings.min_score
        stays[best] = False
        index, start, end, value, length = index[stays], start[stays], end[stays], value[stays], length[stays]
    if not chosen:
        return torch.zeros(0, dtype=torch.long, device=device), scores[:0]
    return torch.stack(chosen).to(device), torch.stack(decayed).to(device=device, dtype=scores.dtype)


def vote(kept: Tensor, segments: Tensor, scores: Tensor, threshold: float, weight: str = "score_iou") -> Tensor:
    """Borders of ``kept`` ``(M, 2)`` as the mean of all ``segments`` ``(N, 2)`` with IoU >= threshold, ``(M, 2)``.

    Weighted by score times IoU (ActionFormer) or by score alone (OpenTAD); a segment that nothing overlaps enough,
    which can only be one of zero length, keeps its borders.
    """
    overlap = segment_iou(kept, segments)
    weights = (overlap >= threshold) * scores[None]
    if weight == "score_iou":
        weights = weights * overlap
    total = weights.sum(dim=1, keepdim=True)
    return torch.where(total > 0, weights @ segments / total.clamp(min=torch.finfo(total.dtype).tiny), kept)
