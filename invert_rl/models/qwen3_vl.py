"""Qwen3-VL: times are written into the text, one run of placeholders for each time step."""

from __future__ import annotations

from typing import Any

from transformers import (
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from invert_rl.models.family import Family
from invert_rl.models.tiny import HEAD_DIM, ROPE_THETA, heads, shared_settings, text_settings

PATCH = 16


class Qwen3VL(Family):
    """Every time step is an image of its own to the positions and to the vision tower."""

    name = "qwen3_vl"
    inner_class = "Qwen3VLModel"

    def tiny_config(
        self, tokenizer: PreTrainedTokenizerBase, hidden: int = 64, layers: int = 2, vision_blocks: int = 2
    ) -> PreTrainedConfig:
        """With features of the first vision block fed deep."""
        return Qwen3VLConfig(
            text_config=self._text(tokenizer, hidden, layers, intermediate_size=2 * hidden),
            vision_config={**self._vision(hidden, vision_blocks), "deepstack_visual_indexes": [0]},
            **shared_settings(tokenizer),
        )

    def tiny_processor(self, tokenizer: PreTrainedTokenizerBase) -> ProcessorMixin:
        """Qwen3-VL's processor around ``tokenizer``; the later families have the same."""
        sizes = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2}
        return Qwen3VLProcessor(
            image_processor=Qwen2VLImageProcessor(
                size={"shortest_edge": 56 * 56, "longest_edge": 16 * 56 * 56}, **sizes
            ),
            tokenizer=tokenizer,
            # The bounds of Qwen3-VL's video processor count the pixels of all frames of a video together.
            video_processor=Qwen3VLVideoProcessor(
                size={"shortest_edge": 4 * 64 * 64, "longest_edge": 64 * 16 * 64 * 64},
                do_sample_frames=False,
                cap_pixels_per_frame=True,
                **sizes,
            ),
            chat_template=tokenizer.chat_template,
        )

    def _text(self, tokenizer: PreTrainedTokenizerBase, hidden: int, layers: int, **others: Any) -> dict[str, Any]:
        rope = {"rope_type": "default", "rope_theta": ROPE_THETA, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
        return text_settings(tokenizer, hidden, layers, **{"head_dim": HEAD_DIM, "rope_parameters": rope, **others})

    def _vision(self, hidden: int, blocks: int) -> dict[str, Any]:
        return {
            "depth": blocks,
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_heads": heads(hidden),
            "out_hidden_size": hidden,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
        }


FAMILY = Qwen3VL()
