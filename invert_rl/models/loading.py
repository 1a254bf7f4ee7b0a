"""Loading a checkpoint of a known family with what this library relies on, or a clear refusal."""

from __future__ import annotations

import os
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from invert_rl.families import FAMILIES
from invert_rl.loading import CheckpointError, load_peft, load_pretrained, readable
from invert_rl.models.adapters import ADAPTER_CONFIG, Adapter, find_adapter
from invert_rl.models.family import Family, family_named
from invert_rl.models.segment_attention import attend_by_segments

NEEDED_TOKENS = Family.needed_tokens
NEVER_SAMPLED = Family.never_sampled
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
LEFT_OUT = ("action_heads.",)
"""Prefixes of tensors that a plain model of the architecture does without: the heads of LLaVAction."""


def check_source(name: str) -> None:
    """Refuse a path that looks local but is not there, before a hub is asked for it."""
    local = name.startswith((".", "/", "~")) or os.sep in name and os.path.isdir(os.path.dirname(name) or ".")
    if local and not os.path.isdir(os.path.expanduser(name)) and not _looks_like_hub_id(name):
        raise CheckpointError(f"{name}: no such checkpoint folder")
    if os.path.isdir(name) and not any(os.path.isfile(os.path.join(name, f)) for f in ("config.json", ADAPTER_CONFIG)):
        raise CheckpointError(f"{name}: not a checkpoint, config.json is missing")


def _looks_like_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def load_processor(name: str, revision: str | None = None) -> ProcessorMixin:
    """The checkpoint's processor, padding on the left; raises `CheckpointError` without the vision tokens."""
    check_source(name)
    adapter = adapter_of(name, revision)
    if adapter is not None and not any(os.path.isfile(os.path.join(name, file)) for file in PROCESSOR_FILES):
        name, revision = adapter.base, adapter.base_revision  # others save adapters without
    with readable(name):
        processor = AutoProcessor.from_pretrained(name, revision=revision, padding_side="left")
    tokenizer = getattr(processor, "tokenizer", None)
    vocabulary = {} if tokenizer is None else tokenizer.get_vocab()
    missing = [token for token in NEEDED_TOKENS if token not in vocabulary]
    if tokenizer is None or missing:
        raise CheckpointError(
            f"{name}: the tokenizer lacks {', '.join(missing)}; a checkpoint of {', '.join(FAMILIES)} is needed"
        )
    tokenizer.padding_side = "left"
    return processor


def adapter_of(name: str, revision: str | None = None) -> Adapter | None:
    """The LoRA adapter of that name, None for a whole checkpoint; raises `CheckpointError` for a broken one."""
    try:
        return find_adapter(name, revision)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def load_config(name: str, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of a checkpoint, that of its base for an adapter; raises `CheckpointError` for another type."""
    check_source(name)
    adapter = adapter_of(name, revision)
    if adapter is not None:
        return load_config(adapter.base, adapter.base_revision)
    with readable(name):
        config = AutoConfig.from_pretrained(name, revision=revision)
    if config.model_type not in FAMILIES:
        raise CheckpointError(f"{name}: model type {config.model_type!r} is not one of {', '.join(FAMILIES)}")
    return config


def load_model(
    name: str, revision: str | None = None, trained_positions: bool = True, **kwargs: Any
) -> PreTrainedModel:
    """The checkpoint's model for training or generation; an adapter is put on its base, as it is and frozen.

    Args:
        trained_positions: compute Qwen2.5-VL positions by the rule of the released weights (see
            `invert_rl.positions`); False leaves what transformers does.
        kwargs: passed to ``from_pretrained`` (dtype, attn_implementation, …).

    Raises `CheckpointError` for a model type that is in no family (`invert_rl.families`).
    """
    config = load_config(name, revision)
    adapter = adapter_of(name, revision)
    if adapter is not None:
        base = load_model(adapter.base, adapter.base_revision, trained_positions, **kwargs)
        return load_peft(base, name, revision=revision)
    left_out = LEFT_OUT if getattr(config, "action_token", None) else ()
    model = load_pretrained(AutoModelForImageTextToText, name, unexpected=left_out, revision=revision, **kwargs)
    model.loaded_revision = revision  # for a reference model, which must be the same one
    if trained_positions:
        family_named(config.model_type).use_trained_positions(model)
    attend_by_segments(model)
    return model


def never_sampled_ids(processor: ProcessorMixin) -> list[int]:
    """Ids of the image, video and vision-boundary tokens, which no answer may hold."""
    vocabulary = processor.tokenizer.get_vocab()
    return sorted(vocabulary[token] for token in NEVER_SAMPLED if token in vocabulary)


def decoding_config(
    model: PreTrainedModel, processor: ProcessorMixin, max_new_tokens: int, **sampling: Any
) -> GenerationConfig:
    """How transformers generates with the model: greedy unless ``sampling`` says otherwise, never a vision token.

    Its ``eos_token_id`` is a list.
    """
    tokenizer = processor.tokenizer
    ends = model.generation_config.eos_token_id
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=[ends] if isinstance(ends, int) else list(ends or [tokenizer.eos_token_id]),
        suppress_tokens=never_sampled_ids(processor),
        disable_compile=True,
        **{"do_sample": False, **sampling},
    )
