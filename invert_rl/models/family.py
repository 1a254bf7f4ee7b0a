"""What this library has to know of a model family, beyond what transformers does for all of them."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod

from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin

from invert_rl.families import FAMILIES


class Family(ABC):
    """A model family; each is one file of this folder with an instance named ``FAMILY``."""

    name: str
    """``model_type`` of the configuration."""
    inner_class: str
    """Class of the model without head, the one that knows vision and positions."""
    needed_tokens: tuple[str, ...] = (
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
    )
    """What the tokenizer of a checkpoint must have."""
    never_sampled: tuple[str, ...] = (
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    )
    """Tokens that no completion may hold: the model would look for a video behind them."""
    recurrent_class: str | None = None
    """Class of the layers that carry a state from token to token, for which a packed sequence is cut up
    (`invert_rl.grpo.packed_recurrence`); None if all layers are attention."""
    repairs_positions: bool = False
    """Whether `use_trained_positions` changes what transformers computes."""

    def use_trained_positions(self, model: nn.Module) -> bool:
        """Have the model count positions as its released weights do; returns whether that changed anything."""
        return False

    @abstractmethod
    def tiny_config(
        self, tokenizer: PreTrainedTokenizerBase, hidden: int = 64, layers: int = 2, vision_blocks: int = 2
    ) -> PreTrainedConfig:
        """Configuration of a tiny model for tests and smoke runs; ``hidden`` is a multiple of 32."""

    @abstractmethod
    def tiny_processor(self, tokenizer: PreTrainedTokenizerBase) -> ProcessorMixin:
        """The processor that goes with it; it takes frames as they are (it samples none)."""


def family_named(name: str) -> Family:
    """The family of that ``model_type``; raises `ValueError` for one that is not known."""
    if name not in FAMILIES:
        raise ValueError(f"model type {name!r} is not one of {', '.join(FAMILIES)}")
    family: Family = importlib.import_module(FAMILIES[name]).FAMILY
    return family


def family_of(model: nn.Module) -> Family:
    """The family of a model, bare or wrapped (PEFT, FSDP, DDP); raises `ValueError` if it is of none."""
    return family_named(vision_language_model(model).config.model_type)


def vision_language_model(model: nn.Module) -> nn.Module:
    """The inner model, without head, adapters or wrappers: the one that knows positions and vision.

    Raises `ValueError` if there is none of a known family.
    """
    for module in model.modules():
        kind = getattr(getattr(module, "config", None), "model_type", None)
        if kind in FAMILIES and _class_name(module) == family_named(kind).inner_class:
            return module
    raise ValueError(f"{type(model).__name__} holds no model of the families {', '.join(FAMILIES)}")


def _class_name(module: nn.Module) -> str:
    """The class that transformers gave a module: FSDP2 puts one of its own, named FSDP…, before it."""
    return type(module).__name__.removeprefix("FSDP")
