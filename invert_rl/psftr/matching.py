"""Hungarian matching of queries and ground truth (section 3.7, eq. 7 and 8)."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from invert_rl.psftr.config import PSFTRConfig
from invert_rl.psftr.layers import to_borders
from invert_rl.psftr.model import QueryOutputs
from invert_rl.tal.nms import segment_iou

Match = tuple[Tensor, Tensor]
"""Indices of queries and, at the same places, of the segments that they have to predict."""


@torch.no_grad()
def match(outputs: QueryOutputs, segments: list[Tensor], labels: list[Tensor], config: PSFTRConfig) -> list[Match]:
    """For every video the assignment of its segments ``(N, 2)`` with labels ``(N,)`` to queries that costs least.

    Segments are centre and width. With more segments than queries, the ones that cost most stay without.
    """
    matches = []
    for number, (of_video, ids) in enumerate(zip(segments, labels, strict=True)):
        cost = matching_cost(
            outputs.logits[number], outputs.actionness[number], outputs.segments[number], of_video, ids, config
        )
        queries, targets = linear_sum_assignment(cost.double().cpu().numpy())
        device = ids.device
        matches.append((torch.as_tensor(queries, device=device), torch.as_tensor(targets, device=device)))
    return matches


def matching_cost(
    logits: Tensor, actionness: Tensor, predicted: Tensor, segments: Tensor, labels: Tensor, config: PSFTRConfig
) -> Tensor:
    """Costs ``(N_q, N)`` of one video: class, L1 and -IoU with the weights of the losses.

    Takes logits ``(N_q, K)``, actionness ``(N_q,)``, predicted segments ``(N_q, 2)`` and truth ``(N, 2)``, ``(N,)``.
    The class cost is what the class loss would change if the query had that class: focal loss of a hit less that of a
    miss (Deformable DETR), or minus the log of the softmax.
    """
    if config.match_on == "actionness":
        class_cost = _focal_gain(actionness, config)[:, None].expand(-1, len(labels))
    elif config.class_loss == "ce":
        class_cost = -F.log_softmax(logits, dim=-1)[:, labels]
    else:
        class_cost = _focal_gain(logits[:, labels], config)
    distance = torch.cdist(predicted, segments, p=1)
    overlap = segment_iou(to_borders(predicted), to_borders(segments))
    return config.class_weight * class_cost + config.l1_weight * distance - config.iou_weight * overlap


def _focal_gain(logits: Tensor, config: PSFTRConfig) -> Tensor:
    hit = sigmoid_focal_loss(logits, torch.ones_like(logits), config.focal_alpha, config.focal_gamma)
    return hit - sigmoid_focal_loss(logits, torch.zeros_like(logits), config.focal_alpha, config.focal_gamma)
