"""Losses of point-based detection beside torchvision's focal one: 1-D DIoU, and the running count that divides them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SMALL = 1e-8
"""Least length that divides."""


def diou_loss(offsets: Tensor, targets: Tensor) -> Tensor:
    """1 - IoU + (distance of centres / length of the enclosing segment)², ``(N,)`` (Zheng et al. 2020, in 1-D).

    Takes distances ``(N, 2)`` of one point to the start and the end of the predicted and of the true segment, none
    negative, in any unit.
    """
    offsets, targets = offsets.float(), targets.float()
    shared = torch.minimum(offsets, targets).sum(dim=-1)
    union = offsets.sum(dim=-1) + targets.sum(dim=-1) - shared
    enclosing = torch.maximum(offsets, targets).sum(dim=-1).clamp(min=SMALL)
    centres = 0.5 * ((offsets[..., 1] - offsets[..., 0]) - (targets[..., 1] - targets[..., 0]))
    return 1 - shared / union.clamp(min=SMALL) + (centres / enclosing) ** 2


class LossNormalizer(nn.Module):
    """Exponential mean of the number of positive points, which steadies the loss of small batches."""

    value: Tensor

    def __init__(self, initial: float = 100.0, momentum: float = 0.9) -> None:
        """``initial`` is ActionFormer's 100 for THUMOS14, 200 for ActivityNet, 250 for EPIC-KITCHENS."""
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.tensor(float(initial)))

    def forward(self, positives: Tensor | int) -> Tensor:
        """Take the count of this step in (at least 1) while training, and return the mean, a scalar tensor."""
        if self.training:
            count = torch.as_tensor(positives, dtype=self.value.dtype, device=self.value.device).clamp(min=1)
            with torch.no_grad():
                self.value.mul_(self.momentum).add_((1 - self.momentum) * count)
        return self.value.clone()
