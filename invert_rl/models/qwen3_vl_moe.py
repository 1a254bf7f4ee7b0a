"""Qwen3-VL with a mixture of experts in every layer."""

from __future__ import annotations

from transformers import PreTrainedConfig, PreTrainedTokenizerBase, Qwen3VLMoeConfig

from invert_rl.models.qwen3_vl import Qwen3VL
from invert_rl.models.tiny import shared_settings


class Qwen3VLMoe(Qwen3VL):
    """Qwen3-VL but for the experts, which see every token by itself."""

    name = "qwen3_vl_moe"
    inner_class = "Qwen3VLMoeModel"

    def tiny_config(
        self, tokenizer: PreTrainedTokenizerBase, hidden: int = 64, layers: int = 2, vision_blocks: int = 2
    ) -> PreTrainedConfig:
        """Four experts, two for each token."""
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": hidden}
        return Qwen3VLMoeConfig(
            text_config=self._text(tokenizer, hidden, layers, intermediate_size=2 * hidden, **experts),
            vision_config={**self._vision(hidden, vision_blocks), "deepstack_visual_indexes": [0]},
            **shared_settings(tokenizer),
        )


FAMILY = Qwen3VLMoe()
