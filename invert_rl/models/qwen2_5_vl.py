"""Qwen2.5-VL: seconds between frame groups are a model input, and positions follow them."""

from __future__ import annotations

from torch import nn
from transformers import (
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from invert_rl.models.family import Family
from invert_rl.models.tiny import ROPE_THETA, heads, shared_settings, text_settings
from invert_rl.positions import use_trained_positions

PATCH = 14
MROPE_SECTION = [4, 6, 6]
"""Rotary frequencies for time, height and width, in the released ratio 16:24:24; they sum to half a head."""
PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 16 * 56 * 56}
"""Least and most pixels of a frame: toy frames of 56x56 are not enlarged."""


class Qwen25VL(Family):
    """Placeholders of a video are one run; text goes on after its largest position."""

    name = "qwen2_5_vl"
    inner_class = "Qwen2_5_VLModel"
    repairs_positions = True

    def use_trained_positions(self, model: nn.Module) -> bool:
        """The rule of the released weights and of vLLM, which transformers 5 does not have (`invert_rl.positions`)."""
        return use_trained_positions(model)

    def tiny_config(
        self,
        tokenizer: PreTrainedTokenizerBase,
        hidden: int = 128,
        layers: int = 4,
        vision_blocks: int = 3,
        intermediate: int = 352,
        vision_hidden: int = 128,
        vision_intermediate: int = 256,
    ) -> Qwen2_5_VLConfig:
        """The toy world's model; ``hidden`` and ``vision_hidden`` are multiples of 32."""
        return Qwen2_5_VLConfig(
            text_config=text_settings(
                tokenizer,
                hidden,
                layers,
                intermediate_size=intermediate,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": ROPE_THETA,
                    "mrope_section": MROPE_SECTION,
                },
            ),
            vision_config={
                "depth": vision_blocks,
                "hidden_size": vision_hidden,
                "intermediate_size": vision_intermediate,
                "num_heads": heads(vision_hidden),
                "out_hidden_size": hidden,
                "patch_size": PATCH,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "tokens_per_second": 2,
                "window_size": 112,
                "fullatt_block_indexes": [vision_blocks - 1],
            },
            **shared_settings(tokenizer),
        )

    def tiny_processor(self, tokenizer: PreTrainedTokenizerBase) -> ProcessorMixin:
        """Qwen2.5-VL's processor around ``tokenizer``."""
        sizes = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2}
        return Qwen2_5_VLProcessor(
            image_processor=Qwen2VLImageProcessor(size=PIXELS, **sizes),
            tokenizer=tokenizer,
            video_processor=Qwen2VLVideoProcessor(
                size=PIXELS, do_sample_frames=False, cap_pixels_per_frame=True, **sizes
            ),
            chat_template=tokenizer.chat_template,
        )


FAMILY = Qwen25VL()
