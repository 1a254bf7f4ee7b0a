"""PSFTR: convolution, SSAE, SGQG, SPDE and the heads (Fig. 2)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_json
from invert_rl.loading import load_folder
from invert_rl.psftr.config import PSFTRConfig
from invert_rl.psftr.decoder import SGQG
from invert_rl.psftr.encoder import SSAE
from invert_rl.psftr.layers import sine_positions
from invert_rl.psftr.prototypes import SPDE
from invert_rl.tal.pyramid import MaskedConv1d

PRIOR = 0.01
"""Actionness of every query before training (DETR's focal heads)."""
SLOPE = 0.2
"""Of the leaky ReLUs [R GAP]."""
WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass
class QueryOutputs:
    """What one decoder layer says about its queries."""

    logits: Tensor
    """``(B, N_q, K)``, scaled cosines with the class texts."""
    segments: Tensor
    """``(B, N_q, 2)``, centre and width in [0, 1] of the rows that count."""
    actionness: Tensor
    """``(B, N_q)``, logits."""


@dataclass
class PSFTROutputs(QueryOutputs):
    """Outputs of the last layer and of the saliency head."""

    saliency: Tensor
    """``(B, T)``, logits, 0 outside the mask."""
    earlier: list[QueryOutputs]
    """Outputs of the layers before; empty unless ``auxiliary``."""


class PSFTR(nn.Module):
    """The detector. Class texts are an input: any set of classes in any order; the scores follow the order."""

    def __init__(self, config: PSFTRConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.convs = nn.ModuleList(MaskedConv1d(width, width) for _ in range(config.conv_layers))
        self.project = nn.Linear(width, width)
        self.encoder = SSAE(config)
        self.decoder = SGQG(config)
        self.spde = SPDE(config)
        self.class_embedding = nn.Linear(width, width)
        self.actionness = nn.Linear(width, 1)
        self.saliency = nn.ModuleList([MaskedConv1d(width, width), MaskedConv1d(width, 1, kernel=1)])
        nn.init.constant_(self.actionness.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, features: Tensor, mask: Tensor, text: Tensor) -> PSFTROutputs:
        """Outputs for raw CLIP features ``(B, T, d)``, a mask ``(B, T)`` and raw CLIP class texts ``(K, d)``.

        The mask is true for the first rows of each video, one at least; what stands in the others has no influence.
        """
        counts = mask[:, None]  # (B, 1, T)
        features = features * mask[..., None]
        video = features.transpose(1, 2)
        for conv in self.convs:
            video = F.leaky_relu(conv(video, counts)[0], SLOPE)
        video = self.project(video.transpose(1, 2))
        positions = sine_positions(mask, self.config.width).to(video.dtype)
        encoded, encoded_text = self.encoder(video, text.expand(len(features), -1, -1), positions, mask)
        contents, segments = self.decoder(encoded, encoded_text, mask)
        layers = list(zip(contents, segments, strict=True))
        first = 0 if self.config.auxiliary else len(layers) - 1
        said = [self.heads(content, spans, features, mask, text) for content, spans in layers[first:]]
        salient = (encoded * mask[..., None]).transpose(1, 2)
        salient = F.leaky_relu(self.saliency[0](salient, counts)[0], SLOPE)
        salient = self.saliency[1](salient, counts)[0][:, 0]
        return PSFTROutputs(**vars(said[-1]), saliency=salient, earlier=said[:-1])

    def heads(self, content: Tensor, segments: Tensor, features: Tensor, mask: Tensor, text: Tensor) -> QueryOutputs:
        """Class logits and actionness of queries Q̂ ``(B, N_q, d)`` with their segments."""
        embedding = self.class_embedding(self.spde(content, text, features, mask))
        cosines = F.normalize(embedding, dim=-1) @ F.normalize(text, dim=-1).T
        return QueryOutputs(self.config.logit_scale * cosines, segments, self.actionness(content)[..., 0])


def build_psftr(config: PSFTRConfig, seed: int) -> PSFTR:
    """A model whose first weights follow from the seed."""
    torch.manual_seed(seed)
    return PSFTR(config)


def save_psftr(model: PSFTR, folder: Path) -> None:
    """Write weights (safetensors) and config of a model into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    with atomic_write(folder / CONFIG) as out:
        json.dump(asdict(model.config), out, indent=1)
        out.write("\n")


def load_psftr(folder: Path) -> PSFTR:
    """The model that `save_psftr` wrote, in evaluation mode; raises `DataError` for a folder that holds none."""
    try:
        model = PSFTR(PSFTRConfig(**read_json(folder / CONFIG)))
        load_folder(model, folder)
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"{folder}: holds no PSFTR model ({error}); give the 'model' folder of a run") from error
    return model.eval()


def parameter_groups(
    model: PSFTR, learning_rate: float, conv_rate: float, slow: float = 0.1, weight_decay: float = 1e-4
) -> list[dict[str, Any]]:
    """Groups of the optimizer: convolutions at ``conv_rate`` (Table 5's backbone), sampling offsets and references at
    ``slow`` times ``learning_rate`` [R TadTR], the rest at ``learning_rate``; all with ``weight_decay``."""
    fast: list[nn.Parameter] = []
    sampling: list[nn.Parameter] = []
    convs: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        group = convs if parts[0] == "convs" else sampling if {"offsets", "reference"} & set(parts) else fast
        group.append(parameter)
    rates = [(fast, learning_rate), (sampling, slow * learning_rate), (convs, conv_rate)]
    return [{"params": group, "lr": rate, "weight_decay": weight_decay} for group, rate in rates if group]
