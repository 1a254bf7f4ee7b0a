"""SSAE, the semantic synergy-aware encoder (section 3.4): each modality by itself, then both across."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from invert_rl.psftr.config import PSFTRConfig
from invert_rl.psftr.layers import FeedForward
from invert_rl.tal.deformable import DeformableAttention1d


class SSAELayer(nn.Module):
    """One layer: intra-modal self-attention (3.4.1), then cross-attention in both directions (3.4.2, eq. 1 and 2).

    Both directions start from the outputs of the first phase. Whether the two phases alternate in every layer or follow
    each other once, the paper leaves open; here every layer has both [C].
    """

    def __init__(self, config: PSFTRConfig) -> None:
        """Only the parts that ``text_to_vision`` and ``vision_to_text`` need."""
        super().__init__()
        width, heads, dropout = config.width, config.heads, config.dropout
        self.dropout = nn.Dropout(dropout)
        self.self_video = DeformableAttention1d(width, heads, points=config.points)
        self.norm_video = nn.LayerNorm(width)
        self.feedforward_video = FeedForward(width, config.feedforward, dropout)
        self.text_to_vision, self.vision_to_text = config.text_to_vision, config.vision_to_text
        if config.text_to_vision or config.vision_to_text:
            self.self_text = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
            self.norm_text = nn.LayerNorm(width)
        if config.text_to_vision:
            self.cross_video = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
            self.norm_cross_video = nn.LayerNorm(width)
        if config.vision_to_text:
            self.cross_text = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
            self.norm_cross_text = nn.LayerNorm(width)
            self.feedforward_text = FeedForward(width, config.feedforward, dropout)

    def forward(
        self, video: Tensor, text: Tensor, positions: Tensor, references: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Video ``(B, T, d)`` and text ``(B, K, d)`` of the next layer; mask ``(B, T)`` true where a row counts."""
        rows = [video.shape[1]]
        attended = self.self_video(video + positions, references, video, rows, mask)
        video = self.norm_video(video + self.dropout(attended))
        if not (self.text_to_vision or self.vision_to_text):
            return self.feedforward_video(video), text
        text = self.norm_text(text + self.dropout(self.self_text(text, text, text, need_weights=False)[0]))
        fused_video, fused_text = video, text
        if self.text_to_vision:
            attended = self.cross_video(video, text, text, need_weights=False)[0]
            fused_video = self.norm_cross_video(self.dropout(attended) + video)
        if self.vision_to_text:
            attended = self.cross_text(text, video, video, key_padding_mask=~mask, need_weights=False)[0]
            fused_text = self.feedforward_text(self.norm_cross_text(self.dropout(attended) + text))
        return self.feedforward_video(fused_video), fused_text


class SSAE(nn.Module):
    """The encoder: `SSAELayer`s, each fed with both outputs of the one before."""

    def __init__(self, config: PSFTRConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SSAELayer(config) for _ in range(config.encoder_layers))

    def forward(self, video: Tensor, text: Tensor, positions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """F̂ ``(B, T, d)`` and T̂ ``(B, K, d)`` of video ``(B, T, d)``, text ``(B, K, d)`` and mask ``(B, T)``.

        The reference of row t is the row itself, (t + 0.5) / T. The order of the classes does not matter.
        """
        rows = video.shape[1]
        references = (torch.arange(rows, device=video.device, dtype=video.dtype) + 0.5) / rows
        references = references[None, :, None, None].expand(len(video), -1, -1, -1)
        for layer in self.layers:
            video, text = layer(video, text, positions, references, mask)
        return video, text
