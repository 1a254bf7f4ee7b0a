"""DELU: two streams that gate and weigh each other, a class activation sequence, and evidential losses [R model.py]."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from invert_rl.wtal import losses as terms
from invert_rl.wtal.localizer import Activations, Localizer


@dataclass(frozen=True)
class DeluWeights:
    """Weights and ratios of the losses: those of the THUMOS14 script [R train_thumos.sh]."""

    mil: float = 1.0
    """Both top-k losses."""
    evidential: float = 1.3
    uncertainty: float = 0.4
    contrastive: float = 1.0
    mutual: float = 1.0
    norm: float = 0.8
    guide: float = 0.4
    pool_ratio: float = 7.0
    """One in so many snippets is pooled for the top-k losses."""
    evidence_ratio: float = 9.0
    """One in so many snippets gives the video's evidence."""
    amplitude: float = 0.7
    """Of the uncertainty curve."""
    uct_mode: str = "released"
    """``released`` or ``rank``, see `invert_rl.wtal.losses.curve_of_snippets`."""

    def __post_init__(self) -> None:
        if self.uct_mode not in terms.UNCERTAINTY_MODES:
            raise ValueError(f"uct_mode must be one of {terms.UNCERTAINTY_MODES}, not {self.uct_mode!r}")


@dataclass(frozen=True)
class DeluConfig:
    """Sizes of the network; the defaults are the released ones."""

    num_classes: int
    """C, without background."""
    rgb_width: int = 1024
    flow_width: int = 1024
    attention_width: int = 512
    width: int = 2048
    """Channels before the class scores."""
    dropout: float = 0.7
    gate_dropout: float = 0.5
    """Within the attention [R]."""
    pool: int = 1
    """Snippets over which scores and attention are averaged; 13 on ActivityNet [R], odd."""
    weights: DeluWeights = field(default_factory=DeluWeights)

    def __post_init__(self) -> None:
        if self.pool < 1 or self.pool % 2 == 0:
            raise ValueError(f"pool must be an odd number of snippets, not {self.pool}")


class CrossAttention(nn.Module):
    """Attention of one stream, gated by the other one [R BWA_fusion_dropout_feat_v2]."""

    def __init__(self, own: int, other: int, hidden: int, dropout: float) -> None:
        """``own`` and ``other`` are the channels of the two streams."""
        super().__init__()
        self.local = nn.Sequential(nn.Conv1d(other, own, 3, padding=1), nn.LeakyReLU(0.2), nn.Dropout(dropout))
        self.whole = nn.Sequential(nn.Conv1d(own, own, 3, padding=1), nn.LeakyReLU(0.2), nn.Dropout(dropout))
        self.attention = nn.Sequential(
            nn.Conv1d(own, hidden, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Dropout(dropout),
            nn.Conv1d(hidden, hidden, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv1d(hidden, 1, 1),
            nn.Dropout(dropout),  # of the logits, as released
            nn.Sigmoid(),
        )

    def forward(self, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Attention ``(B, T)`` and gated features ``(B, own, T)`` of streams ``(B, channels, T)``."""
        gate = torch.sigmoid(self.local(other) * self.whole(own.mean(dim=2, keepdim=True)))
        gated = gate * own
        return self.attention(gated)[:, 0], gated


class TwoStreamAttention(nn.Module):
    """Both streams' `CrossAttention`; the attention of a snippet is their mean."""

    def __init__(self, rgb: int, flow: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.rgb_width, self.flow_width = rgb, flow
        self.rgb = CrossAttention(rgb, flow, hidden, dropout)
        self.flow = CrossAttention(flow, rgb, hidden, dropout)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attention of RGB and of flow ``(B, T)`` and gated features ``(B, T, D)`` of features ``(B, T, D)``.

        Raises `ValueError` where D is not the width of RGB and flow together.
        """
        if features.shape[-1] != self.rgb_width + self.flow_width:
            raise ValueError(
                f"features have {features.shape[-1]} channels, but RGB and flow {self.rgb_width} + {self.flow_width}"
            )
        rgb, flow = features.transpose(1, 2).split([self.rgb_width, self.flow_width], dim=1)
        rgb_attention, gated_rgb = self.rgb(rgb, flow)
        flow_attention, gated_flow = self.flow(flow, rgb)
        return rgb_attention, flow_attention, torch.cat([gated_rgb, gated_flow], dim=1).transpose(1, 2)


class Delu(Localizer):
    """The base method of the paper [S], as its authors released it [R]."""

    def __init__(self, config: DeluConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        channels = config.rgb_width + config.flow_width
        self.attention = TwoStreamAttention(
            config.rgb_width, config.flow_width, config.attention_width, config.gate_dropout
        )
        self.fusion = nn.Sequential(nn.Conv1d(channels, channels, 1), nn.LeakyReLU(0.2), nn.Dropout(config.dropout))
        self.hidden = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Conv1d(channels, config.width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Dropout(config.dropout),
        )
        self.classifier = nn.Conv1d(config.width, config.num_classes + 1, 1)
        self.pool = nn.AvgPool1d(config.pool, 1, padding=config.pool // 2)
        self.apply(initialise)

    def forward(self, features: Tensor, class_vectors: Tensor | None = None) -> Activations:
        """See `Localizer.forward`."""
        rgb, flow, gated = self.attention(features)
        rgb, flow = self.pool(rgb), self.pool(flow)
        fused = self.fusion(gated.transpose(1, 2))  # (B, D, T)
        hidden = self.hidden(fused)  # (B, width, T)
        cas = self.classifier(hidden) if class_vectors is None else class_vectors @ hidden  # (B, C + 1, T)
        cas = self.pool(cas).transpose(1, 2)
        return Activations(cas, (rgb + flow) / 2, (rgb, flow), fused.transpose(1, 2), hidden.transpose(1, 2))

    def losses(self, found: Activations, labels: Tensor, pairs: Tensor, progress: Tensor | float) -> dict[str, Tensor]:
        """DELU's eight terms, weighted [R criterion]."""
        weights = self.config.weights
        suppressed = terms.suppress_background(found.cas, found.attention)
        attentions = (found.attention, *found.stream_attention)
        shared = self.shared_losses(found, labels, pairs)
        return {
            **{name: shared.pop(name) for name in ("mil", "mil_suppressed")},
            "evidential": weights.evidential
            * terms.evidential_loss(suppressed, found.attention, labels, weights.evidence_ratio),
            "uncertainty": weights.uncertainty
            * terms.uncertainty_guided_loss(
                found.cas, suppressed, attentions, progress, weights.amplitude, weights.uct_mode
            ),
            **shared,
        }

    def shared_losses(self, found: Activations, labels: Tensor, pairs: Tensor) -> dict[str, Tensor]:
        """The six terms, weighted, that DELU has from CO2-Net [R CO2.criterion]."""
        weights = self.config.weights
        suppressed = terms.suppress_background(found.cas, found.attention)
        attentions = (found.attention, *found.stream_attention)
        return {
            "mil": weights.mil * terms.mil_loss(found.cas, labels, True, weights.pool_ratio),
            "mil_suppressed": weights.mil * terms.mil_loss(suppressed, labels, False, weights.pool_ratio),
            "contrastive": weights.contrastive * terms.contrastive_loss(found.embedding, suppressed, labels, pairs),
            "mutual": weights.mutual * terms.mutual_loss(*found.stream_attention),
            "norm": weights.norm * torch.stack([attention.mean() for attention in attentions]).mean(),
            "guide": weights.guide * terms.guide_errors(found.cas, attentions).mean(),
        }


def initialise(module: nn.Module) -> None:
    """Kaiming-uniform weights and zero biases of convolutions and linear layers [R]."""
    if isinstance(module, (nn.Conv1d, nn.Linear)):
        nn.init.kaiming_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
