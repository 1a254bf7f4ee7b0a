"""The toy world's model: a tiny Qwen2.5-VL; other families and shapes are in `invert_rl.models.tiny`."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase, ProcessorMixin, Qwen2_5_VLConfig

from invert_rl.families import FAMILIES
from invert_rl.models.family import family_named
from invert_rl.models.qwen2_5_vl import FAMILY
from invert_rl.models.tiny import build_model, save_checkpoint, save_tiny_checkpoint

__all__ = ["KINDS", "build_config", "build_model", "build_processor", "save_checkpoint", "save_tiny_checkpoint"]

KINDS = tuple(FAMILIES)


def build_config(tokenizer: PreTrainedTokenizerBase, **shape: int) -> Qwen2_5_VLConfig:
    """The configuration of a tiny Qwen2.5-VL, by default the toy world's; ``shape`` as in its `tiny_config`."""
    return FAMILY.tiny_config(tokenizer, **shape)


def build_processor(tokenizer: PreTrainedTokenizerBase, kind: str = "qwen2_5_vl") -> ProcessorMixin:
    """The processor of that family around ``tokenizer``; it takes frames as they are (it samples none)."""
    return family_named(kind).tiny_processor(tokenizer)
