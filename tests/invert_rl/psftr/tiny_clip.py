"""A tiny random CLIP checkpoint, and videos of plain colours."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WIDTH, SIDE = 12, 32


def save_tiny_clip(folder: Path) -> Path:
    """Write a CLIP of width 12 that sees pictures of 32 x 32 and reads letter by letter."""
    torch.manual_seed(0)
    tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    config = CLIPConfig(
        text_config={**sizes, **ends, "vocab_size": len(tokens), "max_position_embeddings": 40},
        vision_config={**sizes, "image_size": SIDE, "patch_size": 8},
        projection_dim=WIDTH,
    )
    CLIPModel(config).save_pretrained(folder)
    square = {"height": SIDE, "width": SIDE}
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square).save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    return folder
