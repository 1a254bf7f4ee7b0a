"""InternVideo2's vision transformer, which transformers does not have: one step of features for every frame."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

EPSILON = 1e-6


class InternVideo2Config(PretrainedConfig):
    """Sizes of an `InternVideo2`."""

    model_type = "internvideo2_vision"

    def __init__(
        self,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        image_size: int = 224,
        patch_size: int = 14,
        num_frames: int = 8,
        tubelet_size: int = 1,
        **others: Any,
    ) -> None:
        self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers
        self.num_attention_heads, self.intermediate_size = num_attention_heads, intermediate_size
        self.image_size, self.patch_size = image_size, patch_size
        self.num_frames, self.tubelet_size = num_frames, tubelet_size
        super().__init__(**others)


class Block(GradientCheckpointingLayer):
    """Attention with normalised queries and keys, then an MLP; each behind an RMS norm and scaled per channel [R]."""

    def __init__(self, config: InternVideo2Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.norm1, self.norm2 = (nn.RMSNorm(width, EPSILON) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm, self.k_norm = (nn.RMSNorm(width, EPSILON) for _ in range(2))
        self.proj = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, config.intermediate_size), nn.Linear(config.intermediate_size, width)
        self.scale1, self.scale2 = (nn.Parameter(torch.full((width,), 1e-5)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(N, S, D)``, same shape."""
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q_norm(q), self.k_norm(k), v))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.scale1 * self.proj(attended)
        return x + self.scale2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))


class InternVideo2(PreTrainedModel):
    """The encoder of OpenGVLab/InternVideo, ``InternVideo2/single_modality``, without its pooling and heads [R].

    Its MLP has the exact GELU, as the released code has where it runs without fused kernels, which approximate it.
    """

    config_class = InternVideo2Config
    base_model_prefix = "internvideo2"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]

    def __init__(self, config: InternVideo2Config) -> None:
        super().__init__(config)
        kernel = (config.tubelet_size, config.patch_size, config.patch_size)
        self.patches = nn.Conv3d(3, config.hidden_size, kernel, kernel)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        steps, side = config.num_frames // config.tubelet_size, config.image_size // config.patch_size
        self.places = nn.Parameter(torch.zeros(1, 1 + steps * side**2, config.hidden_size))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        """Features of the patches ``(N, frames / tubelet * patches, D)`` of pixels ``(N, frames, 3, H, W)``."""
        patches = self.patches(pixel_values.transpose(1, 2)).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.places
        for block in self.blocks:
            x = block(x)
        return BaseModelOutput(last_hidden_state=x[:, 1:])
