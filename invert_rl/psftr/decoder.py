"""SGQG, the semantics-guided query generation (section 3.5): learned queries that read the text, then the video."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from invert_rl.psftr.config import PSFTRConfig
from invert_rl.psftr.layers import MLP, FeedForward, inverse_sigmoid
from invert_rl.tal.deformable import DeformableAttention1d

NARROW = -2.0
"""Bias of the width before training: segments start at σ(-2) = 0.12 of the slice [R TadTR]."""


class SGQGLayer(nn.Module):
    """One layer: self-attention, text cross-attention (eq. 3), deformable visual anchoring (eq. 4).

    Eq. 3 adds Q (2d channels) to Q_A (d); the residual here is the content that was attended with [C].
    """

    def __init__(self, config: PSFTRConfig) -> None:
        """Without ``text_to_query`` there is no part of eq. 3."""
        super().__init__()
        width, heads, dropout = config.width, config.heads, config.dropout
        self.dropout = nn.Dropout(dropout)
        self.self_attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.norm_self = nn.LayerNorm(width)
        self.text_to_query = config.text_to_query
        if config.text_to_query:
            self.cross_text = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
            self.norm_text = nn.LayerNorm(width)
            self.feedforward_text = FeedForward(width, config.feedforward, dropout)
        self.anchoring = DeformableAttention1d(width, heads, points=config.points)
        self.norm_video = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, config.feedforward, dropout)

    def forward(
        self, content: Tensor, position: Tensor, references: Tensor, video: Tensor, text: Tensor, mask: Tensor
    ) -> Tensor:
        """Content ``(B, N_q, d)`` of the next layer.

        ``references`` ``(B, N_q, 1 or 2)``: centre, and width where it is known, as shares of all T rows.
        """
        query = content + position
        attended = self.self_attention(query, query, content, need_weights=False)[0]
        content = self.norm_self(content + self.dropout(attended))
        if self.text_to_query:
            attended = self.cross_text(content + position, text, text, need_weights=False)[0]
            content = self.feedforward_text(self.norm_text(self.dropout(attended) + content))
        attended = self.anchoring(content + position, references[:, :, None], video, [video.shape[1]], mask)
        return self.feedforward(self.norm_video(self.dropout(attended) + content))


class SGQG(nn.Module):
    """The decoder: learned queries, their reference points, layers and segments."""

    def __init__(self, config: PSFTRConfig) -> None:
        super().__init__()
        self.width, self.refine, self.detach = config.width, config.refine, config.auxiliary
        self.queries = nn.Parameter(torch.empty(config.queries, 2 * config.width))
        self.reference = nn.Linear(config.width, 1)
        self.layers = nn.ModuleList(SGQGLayer(config) for _ in range(config.decoder_layers))
        heads = config.decoder_layers if config.refine else 1
        self.segments = nn.ModuleList(MLP(config.width, config.width, 2, 3) for _ in range(heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Segments start at their reference points and `NARROW`."""
        nn.init.normal_(self.queries)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)
        for number, head in enumerate(self.segments):
            nn.init.zeros_(head.layers[-1].weight)
            nn.init.zeros_(head.layers[-1].bias)
            if number == 0:
                nn.init.constant_(head.layers[-1].bias[1:], NARROW)

    def forward(self, video: Tensor, text: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Content Q̂ ``(B, N_q, d)`` and segments ``(B, N_q, 2)`` of every layer.

        Segments are centre and width in [0, 1] of the rows that count. Without ``refine`` all layers have the segments
        of the last. With auxiliary losses each layer learns its own change only, as in TadTR; without them the gradient
        goes through the references, or the heads of all layers but the last would learn nothing [C]. Takes F̂
        ``(B, T, d)``, T̂ ``(B, K, d)`` and mask ``(B, T)``.
        """
        batch = len(video)
        position, content = (part.expand(batch, -1, -1) for part in self.queries.split(self.width, dim=-1))
        counted = mask.float().mean(dim=1)[:, None, None]  # references are shares of rows that count, not of all T
        start = self.reference(position).sigmoid()  # (B, N_q, 1)
        references = start
        contents, segments = [], []
        for number, layer in enumerate(self.layers):
            content = layer(content, position, references * counted, video, text, mask)
            contents.append(content)
            if self.refine:
                segments.append(refined(references, self.segments[number](content)))
                references = segments[-1].detach() if self.detach else segments[-1]
        if not self.refine:
            segments = [refined(start, self.segments[0](content))] * len(contents)
        return contents, segments


def refined(references: Tensor, change: Tensor) -> Tensor:
    """Segments ``(..., 2)`` from a reference of centre, or centre and width, and ``change`` ``(..., 2)`` of its logits.

    A width that is not known yet is the sigmoid of its change alone.
    """
    known = inverse_sigmoid(references)
    if known.shape[-1] == 1:
        known = torch.cat([known, torch.zeros_like(known)], dim=-1)
    return (known + change).sigmoid()
