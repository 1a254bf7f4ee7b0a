"""Tiny models with random weights, and checkpoint folders that transformers loads: for tests and smoke runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from invert_rl.models.family import family_named

HEAD_DIM = 32
"""Size of an attention head: 32 is the smallest that vLLM's CPU kernels accept."""
ROPE_THETA = 10_000.0
"""Rotary base, not the 1,000,000 and more of the released models: sequences have a few hundred tokens, and with heads
of 32 there are only 16 frequencies to spend."""


def heads(width: int) -> int:
    """Heads of `HEAD_DIM` in that width; raises `ValueError` unless it is a positive multiple."""
    if width <= 0 or width % HEAD_DIM:
        raise ValueError(f"a width must be a positive multiple of {HEAD_DIM}, found {width}")
    return width // HEAD_DIM


def text_settings(tokenizer: PreTrainedTokenizerBase, hidden: int, layers: int, **others: Any) -> dict[str, Any]:
    """What the text configurations of all families have in common; ``others`` are added."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads(hidden),
        "num_key_value_heads": max(1, heads(hidden) // 2),
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "tie_word_embeddings": True,
        **others,
    }


def shared_settings(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What the configurations around text and vision have in common: special tokens, tied words, float32."""
    tokens = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    tokens |= {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}
    return {**ids, "tie_word_embeddings": True, "dtype": "float32"}


def build_model(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A model of ``config`` with random fp32 weights set by ``seed`` alone; the global seed is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(config)
    model = model.float().eval()
    text = config.get_text_config()
    model.generation_config = GenerationConfig(
        eos_token_id=[text.eos_token_id, text.pad_token_id], pad_token_id=text.pad_token_id, do_sample=False
    )
    return model


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

    ``kind`` is a family (`invert_rl.families`), ``shape`` goes to its `tiny_config`. The tokenizer is the toy world's.
    Raises `ValueError` for an unknown family.
    """
    from invert_rl.toy.tiny_tokenizer import build_tokenizer, toy_texts

    family = family_named(kind)
    tokenizer = build_tokenizer(toy_texts())
    model = build_model(family.tiny_config(tokenizer, **shape), seed)
    return save_checkpoint(model, family.tiny_processor(tokenizer), directory)
