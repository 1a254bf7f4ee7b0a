"""The feature pyramid of ActionFormer: convolutions, then transformer blocks that halve the rows level by level.

Features are ``(B, C, T)``, masks ``(B, 1, T)`` and true where a row counts. Masks stand where the official code has
them: norms leave their bias on padded rows, which the next convolution reads, so that the last rows of a video depend
on how far it is padded. Official weights were trained with it, and are tested padded to the training's length. OpenTAD
masks after these norms, too (``masked_norms``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class PyramidConfig:
    """Sizes of the pyramid; the defaults are ActionFormer's for THUMOS14."""

    input_width: int = 2048
    """Channels of the features, D."""
    width: int = 512
    """Channels of every level, C (ActivityNet: 256)."""
    heads: int = 4
    """Attention heads."""
    embedding_layers: int = 2
    """Convolutions before the first block."""
    stem_layers: int = 2
    """Blocks at full length."""
    levels: int = 6
    """Levels of the pyramid, each after the first of half the rows of the one before."""
    window: int | tuple[int, ...] = 19
    """Rows that a row attends to, itself in the middle; 0: all (ActionVLM). ActivityNet 7, EPIC-KITCHENS 9. Or one
    number per level, the first also of the stem."""
    positions: int = 0
    """Rows of absolute positions, which are stretched over longer videos in testing; 0: no positions."""
    dropout: float = 0.0
    """Of projections in the blocks."""
    drop_path: float = 0.1
    """Probability that a block's branch is left out for a sample."""
    masked_norms: bool = False
    """Whether padded rows are 0 also after the norms of convolutions, as in OpenTAD."""
    norm_epsilon: float = 1e-5
    """Of the norms of convolutions and levels; OpenTAD: 1e-6."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Rows of level 0 that one row of each level stands for."""
        return tuple(2**level for level in range(self.levels))

    @property
    def windows(self) -> tuple[int, ...]:
        """The window of each level; raises `ValueError` where their number is another."""
        windows = (self.window,) * self.levels if isinstance(self.window, int) else tuple(self.window)
        if len(windows) != self.levels:
            raise ValueError(f"{len(windows)} attention windows for {self.levels} levels")
        return windows


class MaskedConv1d(nn.Module):
    """Convolution along time of odd kernel, output 0 where the mask is false; a stride keeps every stride-th row."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, bias: bool = True):
        """Kernel, stride and groups as in `torch.nn.Conv1d`; padded to keep the rows; the bias starts at 0."""
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)
        if bias:
            nn.init.zeros_(self.conv.bias)

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Features and mask ``(B, C', T / stride)``; T must be a multiple of the stride."""
        mask = mask[..., :: self.stride]
        return self.conv(features) * mask, mask


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of ``(B, C, T)``."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalised features, same shape."""
        return super().forward(features.transpose(1, 2)).transpose(1, 2)


class DropPath(nn.Module):
    """A branch scaled per channel, from 1e-4 on, left out for whole samples in training (Touvron et al. 2021)."""

    def __init__(self, width: int, probability: float) -> None:
        """``width`` channels; ``probability`` that a sample's branch is left out."""
        super().__init__()
        self.probability = probability
        self.scale = nn.Parameter(torch.full((1, width, 1), 1e-4))

    def forward(self, branch: Tensor) -> Tensor:
        """The branch ``(B, C, T)`` as it is added."""
        branch = branch * self.scale
        if not self.training or not self.probability:
            return branch
        keep = torch.rand(len(branch), 1, 1, device=branch.device) >= self.probability
        return branch * keep / (1 - self.probability)


class ConvAttention(nn.Module):
    """Self-attention whose queries, keys and values come out of depthwise convolutions, which also halve the rows."""

    def __init__(self, config: PyramidConfig, stride: int, level: int = 0) -> None:
        """``stride`` 1 keeps the rows, 2 halves them; ``level`` says which window it has."""
        super().__init__()
        self.heads, self.window, self.dropout = config.heads, config.windows[level], config.dropout
        if config.width % config.heads:
            raise ValueError(f"width {config.width} is not a multiple of {config.heads} heads")
        width = config.width
        names = ("query", "key", "value")
        self.convs = nn.ModuleDict(
            {name: MaskedConv1d(width, width, 3, stride, groups=width, bias=False) for name in names}
        )
        self.norms = nn.ModuleDict({name: ChannelNorm(width) for name in names})
        self.projections = nn.ModuleDict({name: nn.Conv1d(width, width, 1) for name in names})
        self.output = nn.Conv1d(width, width, 1)

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attended features and mask at the rows that are left."""
        heads = {}
        for name, conv in self.convs.items():
            found, out_mask = conv(features, mask)
            projected = self.projections[name](self.norms[name](found))
            heads[name] = projected.unflatten(1, (self.heads, -1)).transpose(2, 3)  # (B, H, T, C / H)
        visible = out_mask[:, None]  # (B, 1, 1, T) keys
        if self.window:
            place = torch.arange(out_mask.shape[-1], device=features.device)
            visible = visible & ((place[:, None] - place).abs() <= self.window // 2)
        # A row that sees nothing, as padding far from the video does, sees itself: softmax over nothing is nan.
        nothing = ~visible.any(dim=-1, keepdim=True)
        visible = visible | (nothing & torch.eye(out_mask.shape[-1], dtype=torch.bool, device=features.device))
        found = F.scaled_dot_product_attention(heads["query"], heads["key"], heads["value"], attn_mask=visible)
        found = self.output(found.transpose(2, 3).flatten(1, 2))
        return F.dropout(found, self.dropout, self.training) * out_mask, out_mask


class PyramidBlock(nn.Module):
    """A pre-norm transformer block; with stride 2 its skip connection takes the maximum of neighbouring rows."""

    def __init__(self, config: PyramidConfig, stride: int = 1, level: int = 0) -> None:
        """``stride`` 1 keeps the rows, 2 halves them; ``level`` says which window attention has."""
        super().__init__()
        width = config.width
        self.norm, self.mlp_norm = ChannelNorm(width), ChannelNorm(width)
        self.attention = ConvAttention(config, stride, level)
        self.skip = nn.MaxPool1d(3, stride=2, padding=1) if stride > 1 else nn.Identity()
        self.mlp = nn.Sequential(
            nn.Conv1d(width, 4 * width, 1),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Conv1d(4 * width, width, 1),
            nn.Dropout(config.dropout),
        )
        plain = config.drop_path <= 0
        self.attention_path = nn.Identity() if plain else DropPath(width, config.drop_path)
        self.mlp_path = nn.Identity() if plain else DropPath(width, config.drop_path)

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Features and mask at the rows that are left."""
        attended, out_mask = self.attention(self.norm(features), mask)
        features = self.skip(features) * out_mask + self.attention_path(attended)
        return features + self.mlp_path(self.mlp(self.mlp_norm(features)) * out_mask), out_mask


class Pyramid(nn.Module):
    """Embedding, stem and levels; each level is normalised and nothing flows down (ActionFormer's identity FPN)."""

    def __init__(self, config: PyramidConfig) -> None:
        """Sizes of ``config``."""
        super().__init__()
        self.config = config
        widths = [config.input_width, *[config.width] * config.embedding_layers]
        self.embedding = nn.ModuleList(MaskedConv1d(a, b, bias=False) for a, b in zip(widths, widths[1:], strict=False))
        self.embedding_norms = nn.ModuleList(ChannelNorm(config.width, config.norm_epsilon) for _ in self.embedding)
        self.stem = nn.ModuleList(PyramidBlock(config) for _ in range(config.stem_layers))
        self.branch = nn.ModuleList(PyramidBlock(config, stride=2, level=level) for level in range(1, config.levels))
        self.level_norms = nn.ModuleList(ChannelNorm(config.width, config.norm_epsilon) for _ in range(config.levels))
        if config.positions:
            self.register_buffer("places", sinusoids(config.positions, config.width), persistent=False)

    @property
    def multiple(self) -> int:
        """What the official code pads longer videos to multiples of: each level has whole chunks of its window."""
        pairs = zip(self.config.strides, self.config.windows, strict=True)
        return max(stride * (window // 2 * 2 if window > 1 else 1) for stride, window in pairs)

    def forward(self, features: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features ``(B, C, T / stride)`` and masks ``(B, 1, T / stride)`` of all levels.

        Takes features ``(B, T, D)`` and a mask ``(B, T)``. Raises `ValueError` where T is not a multiple of the
        largest stride.
        """
        if features.shape[1] % self.config.strides[-1]:
            raise ValueError(f"{features.shape[1]} rows are not a multiple of {self.config.strides[-1]}; pad them")
        row_mask = mask[:, None].bool()
        found = features.transpose(1, 2) * row_mask
        for conv, norm in zip(self.embedding, self.embedding_norms, strict=True):
            found, _ = conv(found, row_mask)
            found = F.relu(norm(found))
            found = found * row_mask if self.config.masked_norms else found
        if self.config.positions:
            found = found + self._places(found.shape[-1]) * row_mask
        for block in self.stem:
            found, _ = block(found, row_mask)
        levels, masks = [found], [row_mask]
        for block in self.branch:
            found, row_mask = block(found, row_mask)
            levels.append(found)
            masks.append(row_mask)
        return [norm(level) for norm, level in zip(self.level_norms, levels, strict=True)], masks

    def _places(self, rows: int) -> Tensor:
        """Positions ``(1, C, rows)``: stretched over longer videos in testing; in training those are refused."""
        if self.training and rows > self.config.positions:
            raise ValueError(f"{rows} rows, but the positions of training end at {self.config.positions}")
        if rows >= self.config.positions:
            return F.interpolate(self.places, rows, mode="linear", align_corners=False)
        return self.places[..., :rows]


def sinusoids(rows: int, width: int) -> Tensor:
    """Positions ``(1, width, rows)`` of sines and cosines in turn (Vaswani et al. 2017, 3.5), over ``sqrt(width)``."""
    channel = torch.arange(width)
    angle = torch.arange(rows)[:, None].double() / 10000.0 ** (2 * (channel // 2).double() / width)
    table = torch.where(channel % 2 == 0, angle.sin(), angle.cos())
    return (table / width**0.5).float().T[None]
