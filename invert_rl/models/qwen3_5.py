"""Qwen3.5: layers of Gated DeltaNet, which carry a state, and of attention; vision and times as in Qwen3-VL."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase, Qwen3_5Config

from invert_rl.models.qwen3_vl import Qwen3VL
from invert_rl.models.tiny import ROPE_THETA, shared_settings

INTERVAL = 4
"""Every fourth layer is attention, as in the released models."""


class Qwen35(Qwen3VL):
    """Positions and prompts of Qwen3-VL; three of four layers are recurrent, and nothing of the tower is fed deep."""

    name = "qwen3_5"
    inner_class = "Qwen3_5Model"
    recurrent_class = "Qwen3_5GatedDeltaNet"

    def tiny_config(
        self, tokenizer: PreTrainedTokenizerBase, hidden: int = 64, layers: int = 4, vision_blocks: int = 2
    ) -> PreTrainedConfig:
        """Rotary positions on half of a head; the last layer is attention however many there are."""
        return Qwen3_5Config(
            text_config=self._hybrid(tokenizer, hidden, layers, intermediate_size=2 * hidden),
            vision_config=self._vision(hidden, vision_blocks),
            **shared_settings(tokenizer),
        )

    def _hybrid(self, tokenizer: PreTrainedTokenizerBase, hidden: int, layers: int, **others: Any) -> dict[str, Any]:
        kinds = ["linear_attention" if number % INTERVAL else "full_attention" for number in range(1, layers)]
        rope = {
            "rope_type": "default",
            "rope_theta": ROPE_THETA,
            "partial_rotary_factor": 0.5,
            "mrope_section": [3, 3, 2],
            "mrope_interleaved": True,
        }
        linear = {
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": hidden // 4,
            "linear_value_head_dim": hidden // 4,
        }
        settings = {"rope_parameters": rope, "layer_types": [*kinds, "full_attention"], **linear, **others}
        return self._text(tokenizer, hidden, layers, **settings)


FAMILY = Qwen35()
