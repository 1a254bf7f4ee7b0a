"""The losses of eq. 7 to 11, and the module that `SupervisedTrainer` trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from invert_rl.psftr.config import PSFTRConfig
from invert_rl.psftr.layers import to_borders
from invert_rl.psftr.matching import Match, match
from invert_rl.psftr.model import PSFTR, PSFTROutputs, QueryOutputs
from invert_rl.tal.nms import paired_iou

Losses = dict[str, Tensor]


def psftr_losses(
    outputs: PSFTROutputs, mask: Tensor, segments: list[Tensor], labels: list[Tensor], config: PSFTRConfig
) -> Losses:
    """Scalars ``class``, ``l1``, ``iou``, ``actionness``, ``saliency`` and their weighted sum ``loss`` (eq. 11).

    Takes a mask ``(B, T)`` and of every video segments ``(N, 2)``, centre and width in [0, 1] of the rows that count,
    and labels ``(N,)``, places in the class texts. Sums over queries are divided by the ground truths of the batch
    [R GAP]. With ``auxiliary`` earlier layers add theirs, each matched by itself, to all but the saliency.
    """
    total = query_losses(outputs, match(outputs, segments, labels, config), segments, labels, config)
    for layer in outputs.earlier:
        matches = match(layer, segments, labels, config)
        for name, value in query_losses(layer, matches, segments, labels, config).items():
            total[name] = total[name] + value
    total["saliency"] = saliency_loss(outputs.saliency, mask, segments)
    weights = {
        "class": config.class_weight,
        "l1": config.l1_weight,
        "iou": config.iou_weight,
        "actionness": config.actionness_weight,
        "saliency": config.saliency_weight,
    }
    return {
        "loss": sum((weights[name] * value for name, value in total.items()), outputs.saliency.new_zeros(()))
    } | total


def query_losses(
    outputs: QueryOutputs, matches: list[Match], segments: list[Tensor], labels: list[Tensor], config: PSFTRConfig
) -> Losses:
    """Losses of one decoder layer, without weights: eq. 7 (class), 8 (l1, iou) and 9 (actionness).

    Queries without a ground truth have the class target zero and no segment loss; the cross-entropy is over matched
    queries only [C].
    """
    video = torch.cat([torch.full_like(queries, number) for number, (queries, _) in enumerate(matches)])
    query = torch.cat([queries for queries, _ in matches])
    truth = torch.cat([of_video[index] for of_video, (_, index) in zip(segments, matches, strict=True)])
    ids = torch.cat([of_video[index] for of_video, (_, index) in zip(labels, matches, strict=True)])
    count = max(1, sum(len(of_video) for of_video in labels))
    matched = torch.zeros_like(outputs.actionness)
    matched[video, query] = 1.0
    predicted = outputs.segments[video, query]
    if config.class_loss == "ce":
        classes = F.cross_entropy(outputs.logits[video, query], ids, reduction="sum")
    else:
        targets = torch.zeros_like(outputs.logits)
        targets[video, query, ids] = 1.0
        classes = sigmoid_focal_loss(outputs.logits, targets, config.focal_alpha, config.focal_gamma).sum()
    actionness = sigmoid_focal_loss(outputs.actionness, matched, config.focal_alpha, config.focal_gamma).sum()
    return {
        "class": classes / count,
        "l1": (predicted - truth).abs().sum() / count,
        "iou": (1 - paired_iou(to_borders(predicted), to_borders(truth))).sum() / count,
        "actionness": actionness / count,
    }


def saliency_targets(mask: Tensor, segments: list[Tensor]) -> Tensor:
    """``(B, T)``, 1 on the rows of the segments: from the start rounded down to the end rounded up, and one row more
    [R GAP]."""
    targets = torch.zeros(mask.shape, device=mask.device)
    for number, (rows, of_video) in enumerate(zip(mask.sum(dim=1).tolist(), segments, strict=True)):
        borders = to_borders(of_video) * rows
        for start, end in zip(borders[:, 0].floor().tolist(), borders[:, 1].ceil().tolist(), strict=True):
            targets[number, int(start) : min(int(end) + 1, rows)] = 1.0
    return targets


def saliency_loss(logits: Tensor, mask: Tensor, segments: list[Tensor]) -> Tensor:
    """Mean binary cross-entropy over the rows that count (eq. 10)."""
    return F.binary_cross_entropy_with_logits(logits[mask].float(), saliency_targets(mask, segments)[mask])


class PSFTRLearner(nn.Module):
    """A model whose forward pass gives its losses."""

    def __init__(self, model: PSFTR) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, features: Tensor, mask: Tensor, text: Tensor, segments: list[Tensor], labels: list[Tensor]
    ) -> Losses:
        """`psftr_losses` of a batch; arguments as there and in `PSFTR.forward`."""
        return psftr_losses(self.model(features, mask, text), mask, segments, labels, self.model.config)
