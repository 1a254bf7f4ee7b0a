"""A change of weights that can be seen and taken back: noise on a model's matrices, in proportion to each of them."""

from __future__ import annotations

import zlib

import torch
from torch import nn

from invert_rl.models import vision_language_model


class WeightChange:
    """Noise of chosen sizes on language model and vision tower; the weights as they were stay in host memory.

    A size is the noise's standard deviation as a share of a matrix's own; the same size gives the same weights.
    """

    def __init__(self, model: nn.Module, seed: int = 0) -> None:
        self.model, self.seed = model, seed
        self.before = {name: weight.detach().to("cpu", copy=True) for name, weight in model.named_parameters()}
        inside = {id(weight) for weight in vision_language_model(model).visual.parameters()}
        self.of_vision = {name for name, weight in model.named_parameters() if id(weight) in inside}

    @torch.no_grad()
    def apply(self, text: float = 0.0, vision: float = 0.0) -> None:
        """Give the model its weights with noise of these sizes; 0 and 0: as they were, to the bit."""
        for name, weight in self.model.named_parameters():
            weight.copy_(self.before[name])
            size = vision if name in self.of_vision else text
            if size and weight.ndim > 1:
                generator = torch.Generator(weight.device).manual_seed(self.seed + zlib.crc32(name.encode()))
                noise = torch.randn(weight.shape, generator=generator, device=weight.device)
                weight.add_((size * weight.float().std() * noise).to(weight.dtype))
