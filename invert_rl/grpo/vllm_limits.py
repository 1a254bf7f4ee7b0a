"""What a vLLM engine has to be made for, derived from frame settings and lengths instead of guessed by vLLM.

Left alone, vLLM 0.31 profiles a video of 114,688 tokens (14 of the largest frames that Qwen2.5-VL's processor knows)
and finds no memory for a 7B model. With ``max_model_len`` below 32,768 it refuses videos of more than 16,384 tokens and
blames ``limit_mm_per_prompt``; what it compares them with is the encoder cache, of ``max_num_batched_tokens``.
"""

from __future__ import annotations

import math
from typing import Any

from invert_rl.video.budget import largest_budget
from invert_rl.video.settings import TEMPORAL_PATCH, FrameSettings

TEXT_TOKENS = 1024
"""Room for a prompt's words; the shipped prompts have about 250."""
TIME_TOKENS = 10
"""Tokens of the time that families after Qwen2.5-VL write before each grid step."""
BATCHED = 4096
"""Tokens that TRL has vLLM compute at a time."""
BLOCK = 256
"""Lengths are rounded up to a multiple of this."""


def engine_limits(
    settings: FrameSettings, answer_tokens: int, max_prompt_length: int | None = None, positions: int | None = None
) -> dict[str, Any]:
    """Arguments of `vllm.LLM` with which every video of these frame settings fits, and no more is set aside.

    ``max_model_len`` is the longest prompt (``max_prompt_length`` where it is given) and an answer, at most the model's
    ``positions``. The video that vLLM profiles is one pair of frames with as many tokens as the largest video.
    ``max_num_batched_tokens``, the size of the encoder cache, holds that video whole.
    """
    largest = largest_budget(settings)
    prompt = largest.tokens + TEXT_TOKENS + TIME_TOKENS * largest.steps
    if max_prompt_length is not None:
        prompt = min(prompt, max_prompt_length)
    length = -(-(prompt + answer_tokens) // BLOCK) * BLOCK
    side = math.ceil(math.sqrt(largest.tokens)) * settings.factor
    return {
        "max_model_len": length if positions is None else min(length, positions),
        "max_num_batched_tokens": max(BATCHED, -(-largest.tokens // BLOCK) * BLOCK),
        "limit_mm_per_prompt": {
            "image": 0,
            "video": {"count": 1, "num_frames": TEMPORAL_PATCH, "width": side, "height": side},
        },
    }
