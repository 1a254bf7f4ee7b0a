"""Key semantic matching: class vectors made of key descriptions and learnable prompts, scored against snippets."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from invert_rl.wtal.localizer import Activations

TEMPERATURE = 0.1
"""Of the alignment [C]."""


class SemanticMatching(nn.Module):
    """Makes the class vectors that take the place of a base's last layer [S: semantic matching; R TSM; C].

    For each class its frozen sentence vector and ``prompts`` learnable ones go through a transformer layer; the
    output at the sentence is the class vector. Background has a learnable sentence vector. The vectors start with the
    spread of a classifier's weights, so that scores have the size that the base's losses expect [C].
    """

    texts: Tensor

    def __init__(self, texts: Tensor, width: int, prompts: int = 9, heads: int = 8, dropout: float = 0.1) -> None:
        """``texts`` ``(C, E)`` are the sentence vectors; 9 prompts and 8 heads as in the ancestor [R]."""
        super().__init__()
        classes, channels = texts.shape
        self.register_buffer("texts", texts.clone())
        self.background = nn.Parameter(torch.randn(1, channels) / math.sqrt(channels))
        self.prompts = nn.Parameter(torch.randn(classes + 1, prompts, channels) / math.sqrt(channels))
        self.places = nn.Parameter(torch.randn(1, prompts + 1, width) * 0.02)
        self.project = nn.Linear(channels, width)
        self.layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)
        self.log_scale = nn.Parameter(torch.tensor(0.5 * math.log(2 / width)))

    def class_vectors(self) -> Tensor:
        """Vectors ``(C + 1, width)``, background last."""
        sentences = torch.cat([self.texts, self.background])[:, None]  # (C + 1, 1, E)
        tokens = self.project(torch.cat([sentences, self.prompts], dim=1)) + self.places
        return self.norm(self.layer(tokens)[:, 0]) * self.log_scale.exp()

    def alignment_loss(self, found: Activations, vectors: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the video's classes with the cosines of its foreground and the class vectors.

        Foreground is the mean of ``found.hidden`` under the attention. The supplement names no loss for its lambda2;
        this one is ours [C].
        """
        weight = found.attention / found.attention.sum(dim=1, keepdim=True).clamp(min=1e-6)
        foreground = torch.einsum("bt,btd->bd", weight, found.hidden)
        cosines = F.normalize(foreground, dim=-1) @ F.normalize(vectors[:-1], dim=-1).T  # (B, C)
        target = labels / labels.sum(dim=1, keepdim=True).clamp(min=1)
        return -(target * F.log_softmax(cosines / TEMPERATURE, dim=-1)).sum(dim=-1).mean()
