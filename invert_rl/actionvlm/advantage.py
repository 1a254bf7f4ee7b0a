"""The language advantage (ActionVLM, section 3.3): frame losses, class means of vision alone, targets, weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invert_rl.tal.detector import DetectorLosses, DetectorOutputs

BACKGROUND = -1
"""Class id of frames without an action."""
GRANULARITIES = ("frame", "sample")


def language_weight(advantage: Tensor) -> Tensor:
    """Reliability weight λ = 2σ(ReLU(Â)) - 1 of predicted advantages, same shape, in [0, 1) (eq. 4)."""
    return 2 * advantage.relu().sigmoid() - 1


def aggregate(vision: Tensor, language: Tensor, weight: Tensor) -> Tensor:
    """F_vis + λ F_lang of features ``(B, L, D)`` and weights ``(B, L)`` (eq. 5; the same λ for both branches)."""
    return vision + weight[..., None] * language


def frame_classes(segments: Sequence[Tensor], labels: Sequence[Tensor], rows: int) -> Tensor:
    """Class of each frame ``(B, rows)``: that of the shortest segment over it, else `BACKGROUND`.

    Takes each video's segments ``(N, 2)`` in rows and class ids ``(N,)``. The shortest one is what the head
    learns there; the released code lets the last one win [C].
    """
    found = []
    for times, ids in zip(segments, labels, strict=True):
        classes = torch.full((rows,), BACKGROUND, dtype=torch.long, device=ids.device)
        place = torch.arange(rows, device=times.device)
        for index in torch.argsort(times[:, 1] - times[:, 0], descending=True, stable=True).tolist():
            classes[(place >= times[index, 0]) & (place <= times[index, 1])] = ids[index]
        found.append(classes)
    return torch.stack(found)


@dataclass(frozen=True)
class FrameLosses:
    """The detection loss as the advantage counts it, without a gradient."""

    value: Tensor
    """``(B, L)``, 0 where it is not known."""
    known: Tensor
    """``(B, L)``, true for frames of an action whose loss is known."""
    classes: Tensor
    """``(B, L)``, of each frame, `BACKGROUND` included."""


@torch.no_grad()
def frame_losses(
    outputs: DetectorOutputs,
    losses: DetectorLosses,
    classes: Tensor,
    regression_weight: float = 1.0,
    granularity: str = "frame",
) -> FrameLosses:
    """The loss of each frame of classes ``(B, L)``: eq. 6 at single points, without its division by M.

    ``frame`` [C]: the mean over the positive points whose cell [t, t + stride) holds the frame. ``sample`` [R]: the
    video's loss per positive point, at all frames of its actions. Undivided losses keep A of eq. 1 in the range that
    table 3 prints; M follows the batch and would shrink it to nothing.
    """
    point = losses.point_classification + regression_weight * losses.point_regression  # (B, P)
    positive = ((losses.targets.sum(dim=-1) > 0) & outputs.mask).to(point.dtype)
    action = classes != BACKGROUND
    if granularity == "sample":
        count = positive.sum(dim=1, keepdim=True)
        whole = (point * outputs.mask).sum(dim=1, keepdim=True) / count.clamp(min=1)
        known = action & (count > 0)
        return FrameLosses(torch.where(known, whole, 0.0), known, classes)
    if granularity != "frame":
        raise ValueError(f"granularity must be one of {GRANULARITIES}, not {granularity!r}")
    strides, sizes = torch.unique_consecutive(outputs.points.stride, return_counts=True)
    total, count = torch.zeros_like(point[:, : classes.shape[1]]), torch.zeros_like(point[:, : classes.shape[1]])
    levels = zip((point * positive).split(sizes.tolist(), 1), positive.split(sizes.tolist(), 1), strict=True)
    for (of_level, positive_of_level), stride in zip(levels, strides.int().tolist(), strict=True):
        total += of_level.repeat_interleave(stride, dim=1)
        count += positive_of_level.repeat_interleave(stride, dim=1)
    known = action & (count > 0)
    return FrameLosses(torch.where(known, total / count.clamp(min=1), 0.0), known, classes)


class ClassMeans(nn.Module):
    """Mean loss of each class over the last vision-only epoch (algorithm 1, lines 2 to 7).

    All of it is buffers, which are the same on all ranks after every step: a checkpoint in the middle of an epoch
    goes on where it stopped, on any number of ranks.
    """

    total: Tensor
    count: Tensor
    mean: Tensor
    seen: Tensor
    epoch: Tensor

    def __init__(self, num_classes: int) -> None:
        """``num_classes`` classes, none of which has been seen."""
        super().__init__()
        self.register_buffer("total", torch.zeros(num_classes))
        self.register_buffer("count", torch.zeros(num_classes))
        self.register_buffer("mean", torch.zeros(num_classes))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))
        self.register_buffer("epoch", torch.tensor(-1))

    @torch.no_grad()
    def enter(self, epoch: int, vision_only: bool) -> None:
        """Tell the epoch of the batch to come; the first one of a vision-only epoch starts the sums again."""
        if epoch != int(self.epoch):
            if vision_only:
                self.total.zero_()
                self.count.zero_()
            self.epoch.fill_(epoch)

    @torch.no_grad()
    def add(self, losses: FrameLosses, per_sample: bool = False) -> None:
        """Take in the losses of a batch of a vision-only epoch, those of all ranks; a collective call.

        A class's mean is over its frames, or with ``per_sample`` over the videos that show it [R]. A class that does
        not come up in an epoch keeps its mean [R].
        """
        num_classes = len(self.mean)
        one_hot = nn.functional.one_hot(losses.classes.clamp(min=0), num_classes) * losses.known[..., None]  # (B, L, C)
        one_hot = one_hot.to(self.total.dtype)
        if per_sample:
            one_hot = one_hot / one_hot.sum(dim=1, keepdim=True).clamp(min=1)
        new = torch.stack([torch.einsum("blc,bl->c", one_hot, losses.value.to(one_hot.dtype)), one_hot.sum(dim=(0, 1))])
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            torch.distributed.all_reduce(new)
        self.total += new[0]
        self.count += new[1]
        there = self.count > 0
        self.mean.copy_(torch.where(there, self.total / self.count.clamp(min=1e-8), self.mean))
        self.seen |= there

    @torch.no_grad()
    def advantage(self, losses: FrameLosses, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Targets A ``(B, L)`` of a vision-language batch (eq. 1), and where there is one ``(B, L)``.

        A frame of class c has the class's mean minus its own loss. Background has 0 [R], so that language stays out
        of it. An action's frame without a known loss, or of a class whose mean is not known, has none [C].
        """
        ids = losses.classes.clamp(min=0)
        known = losses.known & self.seen[ids]
        target = torch.where(known, self.mean[ids] - losses.value, 0.0)
        return target, (known | (losses.classes == BACKGROUND)) & mask.bool()


def advantage_loss(predicted: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Mean squared error of advantages ``(B, L)`` over the frames that count ``(B, L)``, a scalar (eq. 3)."""
    error = (predicted - target) ** 2
    return (error * counts).sum() / counts.sum().clamp(min=1)
