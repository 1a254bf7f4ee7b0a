"""DELU's losses on activations of a batch of any size [R model.py, edl_loss.py].

``S`` is the class activation sequence ``(B, T, C + 1)``, background last, ``A`` the attention ``(B, T)``, labels
``(B, C)`` are 0 or 1. Every loss is a scalar, the mean over the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

LABEL_EPSILON = 1e-4
"""Added to the number of labels that divides them [R]."""
EVIDENCE_LIMIT = 10.0
"""Logits are cut to plus or minus this before they become evidence [R]."""
UNCERTAINTY_MODES = ("released", "rank")


def suppress_background(cas: Tensor, attention: Tensor) -> Tensor:
    """``A (S - min_c S) + min_c S``, ``(B, T, C + 1)``: where there is no attention all classes are equal."""
    least = cas.min(dim=-1, keepdim=True).values
    return attention[..., None] * (cas - least) + least


def top_k(rows: int, ratio: float) -> int:
    """How many of ``rows`` snippets are pooled: ``rows // ratio``, at least one."""
    return max(1, int(rows // ratio))


def mil_loss(cas: Tensor, labels: Tensor, background: bool, ratio: float) -> Tensor:
    """Cross-entropy of the video's classes with the mean of the top ``T // ratio`` snippets of each class.

    ``background`` says whether the video has the label background, too. Labels are divided by their number.
    """
    pooled = cas.topk(top_k(cas.shape[1], ratio), dim=1).values.mean(dim=1)  # (B, C + 1)
    last = torch.full_like(labels[:, :1], float(background))
    target = torch.cat([labels, last], dim=1)
    target = target / (target.sum(dim=1, keepdim=True) + LABEL_EPSILON)
    return -(target * F.log_softmax(pooled, dim=-1)).sum(dim=-1).mean()


def dirichlet(logits: Tensor) -> Tensor:
    """Concentrations ``exp(logits) + 1`` of the evidence in logits, same shape."""
    return torch.exp(logits.clamp(-EVIDENCE_LIMIT, EVIDENCE_LIMIT)) + 1


def evidential_loss(suppressed: Tensor, attention: Tensor, labels: Tensor, ratio: float) -> Tensor:
    """Evidential loss of the mean of the ``T // ratio`` snippets with the most attention (DELU, video level).

    ``sum_c g_c (log S - log alpha_c)``, where ``g = (1 - u) |y| (y / alpha) / sum(y / alpha)`` weighs the labels by
    how little evidence they have and ``u = C / S``, held fixed, is the video's uncertainty. No KL term [R].
    """
    top = attention.topk(top_k(attention.shape[1], ratio), dim=1).indices  # (B, k)
    picked = suppressed[..., :-1].gather(1, top[..., None].expand(-1, -1, labels.shape[1]))
    alpha = dirichlet(picked.mean(dim=1))  # (B, C)
    strength = alpha.sum(dim=1, keepdim=True)
    uncertainty = labels.shape[1] / strength.detach()
    share = labels / alpha
    share = share / share.sum(dim=1, keepdim=True).clamp(min=torch.finfo(share.dtype).tiny)
    weight = (1 - uncertainty) * labels.sum(dim=1, keepdim=True) * share
    return (weight * (strength.log() - alpha.log())).sum(dim=1).mean()


def snippet_uncertainty(suppressed: Tensor) -> Tensor:
    """``C / sum of the concentrations`` of each snippet, ``(B, T)``; the sum has background in it [R]."""
    return (suppressed.shape[-1] - 1) / dirichlet(suppressed).sum(dim=-1)


def uncertainty_curve(rows: int, progress: Tensor | float, amplitude: float) -> Tensor:
    """Weights ``(T,)`` of snippets from the most certain to the least: ``1 + amplitude tanh(theta delta)``.

    ``theta`` runs from -1 to 1 over the snippets, ``delta = 1 - 2 progress``: first the uncertain ones count more,
    at the end the certain ones [R].
    """
    progress = torch.as_tensor(progress, dtype=torch.float32)
    theta = 2 * (torch.arange(rows, device=progress.device) + 0.5) / rows - 1
    return amplitude * torch.tanh(theta * (1 - 2 * progress)) + 1


def curve_of_snippets(uncertainty: Tensor, curve: Tensor, mode: str) -> Tensor:
    """The curve's value for each snippet, ``(B, T)``.

    ``rank``: the value at the snippet's rank by uncertainty, as the method is described. ``released``: the code
    reads the curve at the sorted snippets' places instead of giving it to them, so that the weight of place t is the
    value at the place of the t-th most certain snippet. Raises `ValueError` for another mode.
    """
    order = uncertainty.argsort(dim=1, stable=True)
    values = curve.to(uncertainty)[None].expand_as(uncertainty)
    if mode == "released":
        return values.gather(1, order)
    if mode == "rank":
        return torch.zeros_like(uncertainty).scatter(1, order, values)
    raise ValueError(f"uct_mode must be one of {UNCERTAINTY_MODES}, not {mode!r}")


def guide_errors(cas: Tensor, attentions: Sequence[Tensor]) -> Tensor:
    """``|1 - A - p(background)|`` of each snippet, the mean over the attentions, ``(B, T)``."""
    background = cas.softmax(dim=-1)[..., -1]
    return torch.stack([(1 - attention - background).abs() for attention in attentions]).mean(dim=0)


def uncertainty_guided_loss(
    cas: Tensor,
    suppressed: Tensor,
    attentions: Sequence[Tensor],
    progress: Tensor | float,
    amplitude: float,
    mode: str = "released",
) -> Tensor:
    """`guide_errors` weighted along the curve of uncertainty (DELU, snippet level)."""
    progress = torch.as_tensor(progress, device=cas.device)
    curve = uncertainty_curve(cas.shape[1], progress, amplitude)
    weight = curve_of_snippets(snippet_uncertainty(suppressed.detach()), curve, mode)
    return (weight * guide_errors(cas, attentions)).mean()


def contrastive_loss(
    embedding: Tensor, suppressed: Tensor, labels: Tensor, pairs: Tensor, margin: float = 0.5
) -> Tensor:
    """Co-activity of two videos of a class: their actions are closer than action and background [R].

    For every pair ``(P, 2)`` and every class that both have: the snippets' features ``(B, T, E)`` under the softmax
    over time (high) and under its complement (low); hinge of ``d(high, high') - d(high, low') + margin`` and of the
    same with the videos swapped, halved; d is one minus the cosine. The mean over shared classes; 0 without pairs.
    """
    if not len(pairs):
        return embedding.sum() * 0
    weight = suppressed[..., :-1].softmax(dim=1)  # (B, T, C)
    rest = (1 - weight) / max(embedding.shape[1] - 1, 1)
    high, low = (torch.einsum("bte,btc->bce", embedding, part) for part in (weight, rest))
    first, second = pairs[:, 0], pairs[:, 1]
    near = F.cosine_similarity(high[first], high[second], dim=-1)  # (P, C)
    far = F.cosine_similarity(high[first], low[second], dim=-1), F.cosine_similarity(high[second], low[first], dim=-1)
    shared = labels[first] * labels[second]
    hinge = sum(0.5 * F.relu(other - near + margin) for other in far)
    return (hinge * shared).sum() / shared.sum().clamp(min=1)


def mutual_loss(first: Tensor, second: Tensor) -> Tensor:
    """Half the mean square of A_v - A_f, each side learning from the other held fixed; attentions ``(B, T)``."""
    return 0.5 * F.mse_loss(first, second.detach()) + 0.5 * F.mse_loss(second, first.detach())


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean square of student attention minus teacher attention held fixed, ``(B, T)`` both."""
    return F.mse_loss(student, teacher.detach())
