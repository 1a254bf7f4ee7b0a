"""Tiny Qwen2.5-VL and Qwen3-VL models with random weights, and checkpoint folders that transformers loads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from invert_rl.toy.sprites import SIZE
from invert_rl.toy.tiny_tokenizer import CHAT_TEMPLATE, build_tokenizer, toy_texts

KINDS = ("qwen2_5_vl", "qwen3_vl")
HEAD_DIM = 32
"""Size of an attention head: 32 is the smallest that vLLM's CPU kernels accept."""
MROPE_SECTION = [4, 6, 6]
"""Rotary frequencies for time, height and width, in Qwen2.5-VL's ratio 16:24:24; they sum to HEAD_DIM / 2."""
PIXELS = {"shortest_edge": SIZE * SIZE, "longest_edge": 16 * SIZE * SIZE}
"""Least and most pixels of a frame: toy frames of 56x56 are not enlarged."""


def build_config(
    tokenizer: PreTrainedTokenizerBase,
    hidden: int = 128,
    layers: int = 4,
    vision_blocks: int = 3,
    intermediate: int = 352,
    vision_hidden: int = 128,
    vision_intermediate: int = 256,
) -> Qwen2_5_VLConfig:
    """The configuration of a tiny Qwen2.5-VL; ``hidden`` and ``vision_hidden`` are multiples of 32.

    The rotary base is 10,000 and not the 1,000,000 of the released models: sequences have a few hundred
    tokens, and with heads of 32 there are only 16 frequencies to spend.
    """
    heads = _heads(hidden)
    return Qwen2_5_VLConfig(
        text_config={
            **_text_settings(tokenizer, hidden, layers, intermediate),
            "num_key_value_heads": max(1, heads // 2),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": MROPE_SECTION,
            },
        },
        vision_config={
            "depth": vision_blocks,
            "hidden_size": vision_hidden,
            "intermediate_size": vision_intermediate,
            "num_heads": _heads(vision_hidden),
            "out_hidden_size": hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
            "fullatt_block_indexes": [vision_blocks - 1],
        },
        **_shared_settings(tokenizer),
    )


def build_qwen3_config(
    tokenizer: PreTrainedTokenizerBase, hidden: int = 64, layers: int = 2, vision_blocks: int = 2
) -> Qwen3VLConfig:
    """The configuration of a tiny Qwen3-VL for tests, with features of its first vision block fed deep."""
    heads = _heads(hidden)
    return Qwen3VLConfig(
        text_config={
            **_text_settings(tokenizer, hidden, layers, 2 * hidden),
            "num_key_value_heads": max(1, heads // 2),
            "head_dim": HEAD_DIM,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": vision_blocks,
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_heads": heads,
            "out_hidden_size": hidden,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        **_shared_settings(tokenizer),
    )


def build_model(config: Qwen2_5_VLConfig | Qwen3VLConfig, seed: int) -> PreTrainedModel:
    """A model of ``config`` with random fp32 weights set by ``seed`` alone; the global seed is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(config, Qwen3VLConfig):
            model: PreTrainedModel = Qwen3VLForConditionalGeneration(config)
        else:
            model = Qwen2_5_VLForConditionalGeneration(config)
    model = model.float().eval()
    text = config.get_text_config()
    model.generation_config = GenerationConfig(
        eos_token_id=[text.eos_token_id, text.pad_token_id], pad_token_id=text.pad_token_id, do_sample=False
    )
    return model


def build_processor(tokenizer: PreTrainedTokenizerBase, kind: str = "qwen2_5_vl") -> ProcessorMixin:
    """The processor of that kind around ``tokenizer``; it takes frames as they are (it samples none)."""
    _check_kind(kind)
    if kind == "qwen3_vl":
        return Qwen3VLProcessor(
            image_processor=Qwen2VLImageProcessor(size=PIXELS, patch_size=16, merge_size=2, temporal_patch_size=2),
            tokenizer=tokenizer,
            # The bounds of Qwen3-VL's video processor count the pixels of all frames of a video together.
            video_processor=Qwen3VLVideoProcessor(
                size={"shortest_edge": 4 * 64 * 64, "longest_edge": 64 * 16 * 64 * 64},
                patch_size=16,
                merge_size=2,
                temporal_patch_size=2,
                do_sample_frames=False,
                cap_pixels_per_frame=True,
            ),
            chat_template=CHAT_TEMPLATE,
        )
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=PIXELS, patch_size=14, merge_size=2, temporal_patch_size=2),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(
            size=PIXELS,
            patch_size=14,
            merge_size=2,
            temporal_patch_size=2,
            do_sample_frames=False,
            cap_pixels_per_frame=True,
        ),
        chat_template=CHAT_TEMPLATE,
    )


def save_checkpoint(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    directory: str | os.PathLike[str],
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write a folder that ``AutoProcessor`` and ``AutoModelForImageTextToText`` load; returns it.

    Weights are stored in ``dtype`` (half precision keeps 11 bits and half of the bytes), but the
    configuration declares float32, so that loading gives a float32 model that can be trained on.
    ``model`` itself is not changed.
    """
    directory = Path(directory)
    state = {name: tensor.detach().to(dtype) for name, tensor in model.state_dict().items()}
    used_cache = getattr(model.config, "use_cache", True)
    model.config.use_cache = True  # trainers switch it off; whoever loads the folder is to generate with a cache
    try:
        model.save_pretrained(directory, state_dict=state)
    finally:
        model.config.use_cache = used_cache
    processor.save_pretrained(directory)
    return directory


def save_tiny_checkpoint(
    directory: str | os.PathLike[str], kind: str = "qwen2_5_vl", seed: int = 0, **shape: int
) -> Path:
    """Write a checkpoint with random weights: configuration, safetensors, tokenizer, processor, template.

    ``kind`` is one of `KINDS`; ``shape`` goes to `build_config` or `build_qwen3_config`.
    """
    _check_kind(kind)
    tokenizer = build_tokenizer(toy_texts())
    make = build_qwen3_config if kind == "qwen3_vl" else build_config
    model = build_model(make(tokenizer, **shape), seed)
    return save_checkpoint(model, build_processor(tokenizer, kind), directory)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"unknown kind of tiny model {kind!r}; the kinds are {', '.join(KINDS)}")


def _heads(width: int) -> int:
    if width <= 0 or width % HEAD_DIM:
        raise ValueError(f"a width must be a positive multiple of {HEAD_DIM}, found {width}")
    return width // HEAD_DIM


def _text_settings(tokenizer: PreTrainedTokenizerBase, hidden: int, layers: int, intermediate: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": _heads(hidden),
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "tie_word_embeddings": True,
    }


def _shared_settings(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    names = ("image", "video", "vision_start", "vision_end")
    tokens = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in zip(names, tokens, strict=True)
    }
    return {**ids, "tie_word_embeddings": True, "dtype": "float32"}
