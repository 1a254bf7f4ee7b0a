"""Qwen3.5 with a mixture of experts, one of them shared by all tokens, in every layer."""

from __future__ import annotations

from transformers import PreTrainedConfig, PreTrainedTokenizerBase, Qwen3_5MoeConfig

from invert_rl.models.qwen3_5 import Qwen35
from invert_rl.models.tiny import shared_settings


class Qwen35Moe(Qwen35):
    """Qwen3.5 but for the experts, which see every token by itself."""

    name = "qwen3_5_moe"
    inner_class = "Qwen3_5MoeModel"
    recurrent_class = "Qwen3_5MoeGatedDeltaNet"

    def tiny_config(
        self, tokenizer: PreTrainedTokenizerBase, hidden: int = 64, layers: int = 4, vision_blocks: int = 2
    ) -> PreTrainedConfig:
        """Four experts, two for each token, and a shared one."""
        experts = {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": hidden,
            "shared_expert_intermediate_size": hidden,
        }
        return Qwen3_5MoeConfig(
            text_config=self._hybrid(tokenizer, hidden, layers, **experts),
            vision_config=self._vision(hidden, vision_blocks),
            **shared_settings(tokenizer),
        )


FAMILY = Qwen35Moe()
