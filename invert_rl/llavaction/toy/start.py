"""The tiny model that the toy default starts from: random weights, and a tokenizer with the kitchen's words."""

from __future__ import annotations

import torch
from accelerate import PartialState
from torch import nn
from transformers import PreTrainedTokenizerBase

from invert_rl.cache import cache_folder
from invert_rl.llavaction.questions.mqa import options_text
from invert_rl.llavaction.toy.kitchen import NOUNS, VERBS
from invert_rl.models.tiny import build_model, save_checkpoint
from invert_rl.toy.tiny_model import build_config, build_processor
from invert_rl.toy.tiny_tokenizer import build_tokenizer

VERSION = 1
"""Raised whenever the same seed would give another start."""
SHAPE = {"hidden": 96, "layers": 3, "intermediate": 192, "vision_hidden": 96, "vision_blocks": 2}
SPREAD = 0.1
"""Standard deviation of the weights: with the usual 0.02 so small a model stays at chance for longer."""


def toy_start(seed: int) -> str:
    """Folder of a tiny Qwen2.5-VL, in the cache folder; the main process makes it."""
    folder = cache_folder() / f"toy-kitchen-start-v{VERSION}-seed{seed}"
    with PartialState().main_process_first():
        if not (folder / "processor_config.json").is_file():
            tokenizer = kitchen_tokenizer()
            model = build_model(build_config(tokenizer, **SHAPE), seed)
            spread_weights(model, seed)
            save_checkpoint(model, build_processor(tokenizer), folder, torch.float32)
    return str(folder)


def kitchen_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer in which every verb and noun of the kitchen is one token."""
    texts = [f"{verb} {noun}" for verb in VERBS for noun in NOUNS]
    chat = ["system\n", "user\n", "assistant\n", "You are a helpful assistant.", options_text(texts[:5])]
    return build_tokenizer([*chat, *texts, *(f" {text}" for text in texts)] * 16)


def spread_weights(model: nn.Module, seed: int) -> None:
    """Draw all matrices of a model anew, from N(0, `SPREAD`²)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(SPREAD * torch.randn(weight.shape, generator=generator))
