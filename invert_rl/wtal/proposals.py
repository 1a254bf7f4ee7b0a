"""Proposals of one video from its attention and scores, at many thresholds [R multiple_threshold_hamnet]."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from invert_rl.tal.nms import Suppression, suppress
from invert_rl.wtal.losses import top_k


@dataclass(frozen=True)
class ProposalSettings:
    """How activations become segments; the defaults are the released ones."""

    class_ratio: float = 10.0
    """One in so many snippets gives the video's score of a class."""
    class_threshold: float = 0.2
    """Classes with at least this probability are proposed; if none has it, the best one."""
    thresholds: tuple[float, float, int] = (0.1, 0.9, 20)
    """First, last and number of the attention's thresholds."""
    margin: float = 0.25
    """What is outer: so much of a proposal's length on either side."""
    class_weight: float = 0.2
    """Of the video's score in a proposal's score."""
    sigma: float = 0.3
    """Of the Gaussian suppression, which counts lengths in snippets plus one."""
    shortest: int = 2
    """Proposals of fewer snippets are dropped after the suppression, in which they take part."""
    most: int = 0
    """Proposals kept per video, best first; 0: all."""


def video_scores(scores: Tensor, ratio: float) -> Tensor:
    """Probabilities ``(C,)`` of a video's classes from scores ``(T, C + 1)``: softmax of the top snippets' means."""
    pooled = scores.topk(top_k(len(scores), ratio), dim=0).values.mean(dim=0)
    return pooled.softmax(dim=0)[:-1]


def runs(active: np.ndarray) -> list[tuple[int, int]]:
    """Runs of True in ``active`` ``(T,)`` as (first, one after the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def proposed_runs(active: np.ndarray) -> list[tuple[int, int]]:
    """The runs of a threshold; none where it leaves the first snippet alone [R: its index 0 is taken for nothing]."""
    found = runs(active)
    return [] if found == [(0, 1)] else found


def contrast(scores: np.ndarray, start: int, end: int, margin: float) -> float:
    """Mean of ``scores`` ``(T,)`` inside ``[start, end)`` minus their mean outside, ``margin`` lengths on each side.

    Outer borders are cut to whole snippets and to the video; without any outer snippet their mean counts as 0 [R].
    """
    length = end - start
    first = max(0, int(start - margin * length))
    last = min(len(scores) - 1, int(end - 1 + margin * length))
    outer = np.concatenate([scores[first:start], scores[end : last + 1]])
    return float(scores[start:end].mean() - (outer.mean() if len(outer) else 0.0))


def propose(cas: Tensor, attention: Tensor, settings: ProposalSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Segments ``(N, 2)`` in rows, scores ``(N,)`` and class ids ``(N,)`` of one video, best first.

    Takes scores ``(T, C + 1)`` and attention ``(T,)``. Scores are ``cas * attention``, inner minus outer, plus the
    video's score; they may be negative.
    """
    weighted = (cas * attention[:, None]).double().cpu()
    probabilities = video_scores(weighted, settings.class_ratio)
    chosen = torch.nonzero(probabilities >= settings.class_threshold)[:, 0].tolist()
    chosen = chosen or [int(probabilities.argmax())]
    levels = attention.double().cpu().numpy()
    found = [run for level in np.linspace(*settings.thresholds) for run in proposed_runs(levels > level)]
    segments, scores, labels = [], [], []
    for label in chosen:
        values = weighted[:, label].numpy()
        for start, end in found:
            segments.append((float(start), float(end)))
            inner_outer = contrast(values, start, end, settings.margin)
            scores.append(inner_outer + settings.class_weight * float(probabilities[label]))
            labels.append(label)
    if not segments:
        return torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, dtype=torch.long)
    rules = Suppression(sigma=settings.sigma, min_score=-math.inf, max_segments=0, extra_length=1.0)
    kept = suppress(torch.tensor(segments), torch.tensor(scores), torch.tensor(labels), rules)
    long = kept[0][:, 1] - kept[0][:, 0] >= settings.shortest
    times, values, ids = (part[long][: settings.most or None] for part in kept)
    return times, values, ids
