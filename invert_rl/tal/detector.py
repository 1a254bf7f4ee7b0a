"""ActionFormer's heads, losses and decoding on top of a pyramid (Zhang et al. 2022, sections 3.3 to 3.5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from invert_rl.tal.losses import LossNormalizer, diou_loss
from invert_rl.tal.nms import Suppression
from invert_rl.tal.points import RANGES, Points, label_points, make_points, segments_of
from invert_rl.tal.pyramid import ChannelNorm, MaskedConv1d, Pyramid, PyramidConfig


@dataclass
class DetectorConfig:
    """A detector's sizes, training and test settings; the defaults are ActionFormer's for THUMOS14."""

    pyramid: PyramidConfig = field(default_factory=PyramidConfig)
    """Sizes of the pyramid."""
    num_classes: int = 20
    """Classes, C."""
    head_layers: int = 3
    """Convolutions of each head, the last of which gives its output."""
    ranges: tuple[tuple[float, float], ...] = RANGES
    """Regression range of each level, in rows; one per level."""
    center_radius: float | None = 1.5
    """Strides around a segment's middle in which points learn it; None: all of it."""
    prior: float = 0.01
    """Probability of every class before training."""
    label_smoothing: float = 0.0
    """ActivityNet: 0.1."""
    regression_weight: float = 1.0
    """Weight of the DIoU loss; ActionFormer's ActivityNet recipe has 2."""
    initial_positives: float = 100.0
    """Start of the running count of positive points (see `LossNormalizer`)."""
    min_score: float = 0.001
    """A score must exceed this before suppression."""
    top_points: int = 2000
    """Scores kept per level before suppression; 0: all."""
    top_in_all: bool = False
    """Whether ``top_points`` counts the levels together, as OpenTAD does."""
    min_length: float = 0.05
    """A segment must be longer than this many rows; below 0 empty ones stay, too."""
    suppression: Suppression = field(default_factory=lambda: Suppression(max_segments=2000))
    """How overlaps are suppressed; ``max_segments`` is what is kept per video."""


@dataclass
class DetectorOutputs:
    """Outputs at all points of a batch, levels behind each other."""

    logits: Tensor
    """``(B, P, C)``."""
    offsets: Tensor
    """``(B, P, 2)``, distances to start and end in strides, none negative."""
    mask: Tensor
    """``(B, P)``, true where the point lies in the video."""
    points: Points
    """The P points."""


@dataclass
class DetectorLosses:
    """Losses of a batch; ``total`` is what is minimised."""

    total: Tensor
    classification: Tensor
    """Focal loss over the running count of positive points, scalar."""
    regression: Tensor
    """DIoU loss over the same count, scalar."""
    point_classification: Tensor
    """Focal loss of each point, ``(B, P)``, summed over classes, 0 outside the video."""
    point_regression: Tensor
    """DIoU loss of each point, ``(B, P)``, 0 where there is no action."""
    targets: Tensor
    """Classes that the points were to learn, ``(B, P, C)``, before smoothing."""


class Head(nn.Module):
    """Convolutions shared by all levels."""

    def __init__(self, config: PyramidConfig, outputs: int, layers: int) -> None:
        """``layers`` convolutions, all but the last with norm and ReLU, from the pyramid's to ``outputs`` channels."""
        super().__init__()
        width = config.width
        self.masked_norms = config.masked_norms
        self.convs = nn.ModuleList(MaskedConv1d(width, width, bias=False) for _ in range(layers - 1))
        self.norms = nn.ModuleList(ChannelNorm(width, config.norm_epsilon) for _ in self.convs)
        self.last = MaskedConv1d(width, outputs)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Outputs ``(B, outputs, T)`` of one level."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            features = F.relu(norm(conv(features, mask)[0]))
            features = features * mask if self.masked_norms else features
        return self.last(features, mask)[0]


class Detector(nn.Module):
    """Pyramid, classification head and regression head.

    `forward` is ``heads(*pyramid(features, mask))``; a model that feeds the heads from elsewhere calls `heads` alone.
    """

    def __init__(self, config: DetectorConfig) -> None:
        """Raises `ValueError` where there is not one regression range per level."""
        super().__init__()
        if len(config.ranges) != config.pyramid.levels:
            raise ValueError(f"{len(config.ranges)} regression ranges for {config.pyramid.levels} levels")
        self.config = config
        self.pyramid = Pyramid(config.pyramid)
        self.classifier = Head(config.pyramid, config.num_classes, config.head_layers)
        self.regressor = Head(config.pyramid, 2, config.head_layers)
        self.scales = nn.Parameter(torch.ones(config.pyramid.levels))
        self.normalizer = LossNormalizer(config.initial_positives)
        nn.init.constant_(self.classifier.last.conv.bias, -math.log((1 - config.prior) / config.prior))
        nn.init.constant_(self.regressor.last.conv.bias, 1.0)  # behind a ReLU, which must not start closed [C]

    def forward(self, features: Tensor, mask: Tensor) -> DetectorOutputs:
        """Outputs of features ``(B, T, D)`` with a mask ``(B, T)``; T a multiple of ``pyramid.multiple``."""
        levels, masks = self.pyramid(features, mask)
        return self.heads(levels, levels, masks)

    def heads(self, classify: Sequence[Tensor], localize: Sequence[Tensor], masks: Sequence[Tensor]) -> DetectorOutputs:
        """Outputs of levels ``(B, C, T_l)`` for the classification and the regression head, masks ``(B, 1, T_l)``."""
        logits = [self.classifier(level, mask) for level, mask in zip(classify, masks, strict=True)]
        offsets = [
            F.relu(self.regressor(level, mask) * scale)
            for level, mask, scale in zip(localize, masks, self.scales, strict=True)
        ]
        lengths = [mask.shape[-1] for mask in masks]
        return DetectorOutputs(
            torch.cat(logits, dim=-1).transpose(1, 2),
            torch.cat(offsets, dim=-1).transpose(1, 2),
            torch.cat(list(masks), dim=-1)[:, 0],
            make_points(lengths, self.config.pyramid.strides, self.config.ranges, logits[0].device),
        )

    def losses(self, outputs: DetectorOutputs, segments: Sequence[Tensor], labels: Sequence[Tensor]) -> DetectorLosses:
        """Losses against each video's segments ``(N, 2)`` in rows and class ids ``(N,)``."""
        config, mask = self.config, outputs.mask
        targets = [
            label_points(
                outputs.points, times.to(mask.device), ids.to(mask.device), config.num_classes, config.center_radius
            )
            for times, ids in zip(segments, labels, strict=True)
        ]
        classes = torch.stack([of_video[0] for of_video in targets])
        offsets = torch.stack([of_video[1] for of_video in targets])
        positive = (classes.sum(dim=-1) > 0) & mask
        smooth = classes * (1 - config.label_smoothing) + config.label_smoothing / (config.num_classes + 1)
        point_classification = sigmoid_focal_loss(outputs.logits.float(), smooth).sum(dim=-1) * mask
        point_regression = torch.zeros_like(point_classification)
        point_regression[positive] = diou_loss(outputs.offsets[positive], offsets[positive])
        count = self.normalizer(positive.sum())
        classification, regression = point_classification.sum() / count, point_regression.sum() / count
        total = classification + config.regression_weight * regression
        return DetectorLosses(total, classification, regression, point_classification, point_regression, classes)

    @torch.no_grad()
    def decode(self, outputs: DetectorOutputs) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Each video's segments ``(N, 2)`` in rows, scores ``(N,)`` and class ids ``(N,)``, before suppression.

        Scores above ``min_score``, the best ``top_points`` of each level or of all, segments over ``min_length``.
        """
        scores = outputs.logits.sigmoid() * outputs.mask[..., None]
        segments = segments_of(outputs.points, outputs.offsets)
        sizes = torch.unique_consecutive(outputs.points.stride, return_counts=True)[1].tolist()
        found = []
        for of_video, times in zip(scores, segments, strict=True):
            parts, first = [], 0
            for level in of_video.split([len(of_video)] if self.config.top_in_all else sizes):
                best, place = level.flatten().topk(min(self.config.top_points or level.numel(), level.numel()))
                place, best = place[best > self.config.min_score], best[best > self.config.min_score]
                point = first + place // self.config.num_classes
                parts.append((times[point], best, place % self.config.num_classes))
                first += len(level)
            cuts, values, ids = (torch.cat(part) for part in zip(*parts, strict=True))
            long = cuts[:, 1] - cuts[:, 0] > self.config.min_length
            found.append((cuts[long], values[long], ids[long]))
        return found
