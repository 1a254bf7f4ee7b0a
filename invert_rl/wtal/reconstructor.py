"""A transformer that fills in the hidden words of a description from the snippets that an attention lets through."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from invert_rl.wtal.words import PADDING

SMOOTHING = 0.1
"""Label smoothing [R]."""


class WeightedAttention(nn.Module):
    """Multi-head attention whose weights are multiplied by how much each key may be used, and renormalised [R]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} must be a multiple of the number of heads, {heads}")
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, queries: Tensor, keys: Tensor, use: Tensor | None = None, causal: bool = False) -> Tensor:
        """``(B, N, width)`` of queries ``(B, N, width)`` and keys ``(B, M, width)``; ``use`` is ``(B, M)``.

        ``causal``: query n sees the keys up to n only.
        """
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(queries), self.key(keys), self.value(keys))
        )
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, heads, N, M)
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        weights = scores.softmax(dim=-1)
        if use is not None:
            weights = weights * use[:, None, None]
            weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-6)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention within a sequence, attention to another one if there is one, and two linear layers, post-norm [R]."""

    def __init__(self, width: int, heads: int, dropout: float, cross: bool) -> None:
        super().__init__()
        self.own = WeightedAttention(width, heads)
        self.cross = WeightedAttention(width, heads) if cross else None
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if cross else 2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, use: Tensor, memory: Tensor | None = None) -> Tensor:
        """Without ``memory`` ``x`` are snippets, used as ``use`` says; with it words, which see the earlier words."""
        if self.cross is None:
            x = self.norms[0](x + self.dropout(self.own(x, x, use)))
        else:
            x = self.norms[0](x + self.dropout(self.own(x, x, causal=True)))
            x = self.norms[1](x + self.dropout(self.cross(x, memory, use)))
        return self.norms[-1](x + self.dropout(self.feed(x)))


class Reconstructor(nn.Module):
    """Predicts every word of a description from the snippets and from the words before it that are not hidden.

    A word's vector depends on that word alone, never on its neighbours, and a hidden word's is replaced before
    anything else happens: nothing in the input tells a hidden word. The ancestor overwrites its masked input with the
    plain one, so that it masks nothing [R VLC]; ``masked`` of all False gives that.
    """

    vectors: Tensor

    def __init__(
        self, vectors: Tensor, features: int, width: int = 512, heads: int = 4, layers: int = 3, dropout: float = 0.1
    ) -> None:
        """``vectors`` ``(V, E)`` are the frozen vectors of the vocabulary, `PADDING` first; ``features`` is D."""
        super().__init__()
        channels = vectors.shape[1]
        self.register_buffer("vectors", vectors.clone())
        self.start = nn.Parameter(torch.randn(channels) / math.sqrt(channels))
        self.hidden_word = nn.Parameter(torch.randn(channels) / math.sqrt(channels))
        self.snippets = nn.Linear(features, width)
        self.words = nn.Linear(channels, width)
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(Layer(width, heads, dropout, cross=False) for _ in range(layers))
        self.decoder = nn.ModuleList(Layer(width, heads, dropout, cross=True) for _ in range(layers))
        self.logits = nn.Linear(width, len(vectors))

    def word_inputs(self, words: Tensor, masked: Tensor) -> Tensor:
        """Vectors ``(B, L, E)`` that the decoder gets: the start, then all words but the last, hidden ones replaced."""
        known = torch.where(masked[..., None], self.hidden_word, self.vectors[words])
        start = self.start.expand(len(words), 1, -1)
        return torch.cat([start, known[:, :-1]], dim=1)

    def forward(self, features: Tensor, use: Tensor, words: Tensor, masked: Tensor) -> Tensor:
        """Logits ``(B, L, V)`` of words ``(B, L)`` given features ``(B, T, D)`` of which ``use`` ``(B, T)`` is let in.

        ``masked`` ``(B, L)`` says which words are hidden.
        """
        snippets = self.dropout(self.snippets(features))
        for layer in self.encoder:
            snippets = layer(snippets, use)
        x = self.words(self.word_inputs(words, masked))
        x = self.dropout(x + sinusoids(x.shape[1], x.shape[2]).to(x))
        for layer in self.decoder:
            x = layer(x, use, snippets)
        return self.logits(x)


def sinusoids(length: int, width: int) -> Tensor:
    """Positions ``(length, width)`` of Vaswani et al. 2017, sines then cosines."""
    half = (width + 1) // 2
    rates = torch.exp(torch.arange(half) * -(math.log(10000.0) / max(half - 1, 1)))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


def word_errors(logits: Tensor, words: Tensor, counted: Tensor | None = None) -> Tensor:
    """Smoothed cross-entropy of each description, ``(B,)``: the mean over its words, or over those ``counted``."""
    errors = F.cross_entropy(logits.transpose(1, 2), words, reduction="none", label_smoothing=SMOOTHING)
    weight = (words != PADDING if counted is None else counted).to(errors)
    return (errors * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
