"""SPDE, the semantic prototype-driven enhancement (section 3.6): what of the video looks like the class texts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from invert_rl.psftr.config import PSFTRConfig


def semantic_prototypes(text: Tensor, features: Tensor, mask: Tensor, scale: float | None = 100.0) -> Tensor:
    """V̂ ``(B, K, d)``: for each class the mean of the rows, weighted by a softmax over time (eq. 5).

    Takes raw CLIP text ``(K, d)``, raw CLIP features ``(B, T, d)`` and a mask ``(B, T)``. The weights come from
    ``scale`` times the cosine [C], as raw dot products have no fixed scale; None: from the dot product as printed.
    """
    if scale is None:
        similarity = torch.einsum("kd,btd->bkt", text, features)
    else:
        similarity = scale * torch.einsum("kd,btd->bkt", F.normalize(text, dim=-1), F.normalize(features, dim=-1))
    return similarity.masked_fill(~mask[:, None], float("-inf")).softmax(dim=-1) @ features


class SPDE(nn.Module):
    """Adds the mean prototype to every query (eq. 6); Table 3's variants by ``config.spde``.

    Eq. 6 prints a linear layer, Table 3's best row says "MLP + Res.": ``mlp_residual`` is the default.
    """

    def __init__(self, config: PSFTRConfig) -> None:
        super().__init__()
        width = config.width
        self.mode, self.scale = config.spde, config.spde_scale
        hidden = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        layers: dict[str, nn.Module] = {
            "none": nn.Identity(),
            "residual": nn.Identity(),
            "linear": nn.Linear(width, width),
            "mlp_residual": hidden,
            "concat_mlp": nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width)),
        }
        self.layers = layers[config.spde]

    def forward(self, queries: Tensor, text: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        """Q̂_cls ``(B, N_q, d)`` of Q̂ ``(B, N_q, d)``; the others as in `semantic_prototypes`."""
        if self.mode == "none":
            return queries
        summary = semantic_prototypes(text, features, mask, self.scale).mean(dim=1, keepdim=True)  # (B, 1, d)
        if self.mode == "concat_mlp":
            return self.layers(torch.cat([queries, summary.expand_as(queries)], dim=-1))
        return queries + self.layers(summary)
