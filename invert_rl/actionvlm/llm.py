"""Language models for ActionVLM: Qwen2.5 and its kin, the one inside InternVL3, and a tiny one with random weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from data_prep.errors import DataError
from invert_rl.loading import load_pretrained
from invert_rl.toy.tiny_tokenizer import build_tokenizer

TINY = "tiny"
"""Name of the language model with random weights that needs no download."""

LOCAL = 1.5
"""Bias of the tiny model's queries and keys: under rotary embeddings equal ones attend to near tokens, as heads of
trained models do. A special token sees its frame from the start; else it would take hundreds of steps to find it."""


def load_language_model(
    name: str, revision: str | None = None, dtype: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer by hub name or folder; of a model that also sees, its language part.

    Raises `DataError` where ``name`` cannot be loaded.
    """
    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        if config.get_text_config() is config:
            return load_pretrained(AutoModelForCausalLM, name, revision=revision, dtype=dtype), tokenizer
        whole = load_pretrained(AutoModelForImageTextToText, name, revision=revision, dtype=dtype)
    except (OSError, ValueError) as error:
        raise DataError(
            f"llm {name!r}: cannot load it ({error}); give a causal language model of transformers"
        ) from error
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(config.get_text_config(), dtype=whole.dtype)
    llm.model, llm.lm_head = whole.get_decoder(), whole.get_output_embeddings()
    return llm, tokenizer


def language_width(name: str, revision: str | None = None) -> int:
    """Channels of a language model by hub name or folder, without its weights; raises `DataError` as loading does."""
    try:
        return int(AutoConfig.from_pretrained(name, revision=revision).get_text_config().hidden_size)
    except (OSError, ValueError) as error:
        raise DataError(f"llm {name!r}: cannot read its configuration ({error})") from error


def tiny_language_model(
    texts: Iterable[str], seed: int, width: int = 64, layers: int = 2
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A Qwen2 with random weights set by ``seed``, and a tokenizer trained on ``texts``; the global seed is kept.

    ``width`` is a multiple of 32.
    """
    tokenizer = build_tokenizer([text for text in texts for _ in range(64)])
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=8192,
        initializer_range=width**-0.5,  # 0.02 is for widths in the thousands: here attention would stay even
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=False,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        llm = Qwen2ForCausalLM(config).float()
    for layer in llm.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            torch.nn.init.constant_(projection.bias, LOCAL)
    return llm, tokenizer


def add_lora(llm: PreTrainedModel, rank: int, alpha: int, dropout: float) -> None:
    """Freeze ``llm`` and give all its linear layers but the output one adapters that are trained, in place.

    Adapters are float32 whatever the model is: steps of 5e-6 are lost in bfloat16.
    """
    llm.requires_grad_(False)
    output = {name.split(".")[-1] for name, module in llm.named_modules() if module is llm.get_output_embeddings()}
    linear = {
        name.split(".")[-1] for name, module in llm.named_modules() if isinstance(module, torch.nn.Linear)
    } - output
    settings = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=sorted(linear))
    inject_adapter_in_model(settings, llm)
    for value in llm.parameters():
        if value.requires_grad:
            value.data = value.data.float()
