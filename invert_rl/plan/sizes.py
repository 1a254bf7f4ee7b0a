"""Sizes of a model from its ``config.json`` alone: it is built without memory for its weights and counted."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

from data_prep.errors import DataError
from invert_rl.models.family import family_named, vision_language_model


@dataclass(frozen=True)
class Linear:
    """A linear map of the model, which adapters can be put on."""

    name: str
    inputs: int
    outputs: int
    vision: bool
    """Whether it belongs to the vision tower or its projector."""


@dataclass(frozen=True)
class ModelSizes:
    """Numbers of parameters by part, and the shapes that activations and caches follow from."""

    family: str
    dtype: str
    """Precision that the checkpoint says it is in."""
    parameters: int
    vision: int
    """Of the vision tower and its projector."""
    embedding: int
    head: int
    """0 where the head is the embedding."""
    vectors: int
    """Of biases and norms: parameters that autocast makes no copies of."""
    layer: int
    """Of the largest decoder layer."""
    vision_block: int
    experts: int
    """Of all experts that are chosen among, in all layers."""
    chosen: float
    """Share of these experts that a token goes through; 1 without experts."""
    hidden: int
    vocabulary: int
    layers: int
    attention_layers: int
    """Those with a key-value cache; the others carry a state."""
    query: int
    """Width of all query heads of a layer."""
    key: int
    """Width of all key heads of a layer."""
    inner: int
    """Width inside a layer's feed-forward part that one token sees, all its experts together."""
    vision_hidden: int
    vision_inner: int
    vision_depth: int
    vision_full: int
    """Blocks whose attention is over a whole frame; the others attend in windows."""
    patch: int
    linears: Sequence[Linear]
    lora_defaults: Collection[str]
    """What an adapter is put on where nothing is said; empty where PEFT knows nothing for the family."""

    @property
    def language(self) -> int:
        """Parameters of the decoder layers and what stands beside them: all but vision, embedding and head."""
        return self.parameters - self.vision - self.embedding - self.head

    @property
    def active(self) -> float:
        """Parameters of the decoder layers that one token goes through."""
        return self.language - self.experts * (1 - self.chosen)

    @property
    def cache_per_token(self) -> int:
        """Numbers in the key-value cache for each token."""
        return 2 * self.key * self.attention_layers

    def adapters(self, rank: int, targets: str | Sequence[str] | None, freeze_vision: bool) -> int:
        """Trained parameters of LoRA of that rank; raises `DataError` for targets that the model has not."""
        found = [line for line in self._targeted(targets) if not (freeze_vision and line.vision)]
        if not found:
            raise DataError(f"lora_target_modules {targets!r}: no linear map of {self.family} has such a name")
        return sum(rank * (line.inputs + line.outputs) for line in found)

    def adapts_vision(self, targets: str | Sequence[str] | None) -> bool:
        """Whether adapters on these targets are put on the vision tower, too."""
        return any(line.vision for line in self._targeted(targets))

    def names(self, target: str) -> bool:
        """Whether a linear map of the language model ends in that name."""
        return any(not line.vision and line.name.endswith(f".{target}") for line in self.linears)

    def _targeted(self, targets: str | Sequence[str] | None) -> list[Linear]:
        wanted = list(self.lora_defaults) if targets is None else [targets] if isinstance(targets, str) else targets
        if list(wanted) == ["all-linear"]:
            return [line for line in self.linears if line.name.rpartition(".")[2] != "lm_head"]
        return [line for line in self.linears if any(f".{line.name}".endswith(f".{target}") for target in wanted)]

    def quantizable(self) -> int:
        """Weights that 4 and 8 bits are used for: linear maps of the language model but for the head."""
        lines = (line for line in self.linears if not line.vision and line.name.rpartition(".")[2] != "lm_head")
        return sum(line.inputs * line.outputs for line in lines)


def sizes_of(config: PreTrainedConfig) -> ModelSizes:
    """Count the model of ``config`` on torch's meta device; raises `DataError` where it cannot be built."""
    family = family_named(config.model_type)
    dtype = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None) or "float32"
    config = copy.deepcopy(config)  # building writes into it
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise DataError(f"config.json: no {config.model_type} can be built of it: {error}") from error
    inner = vision_language_model(model)
    text, vision = config.get_text_config(), config.vision_config
    tower, language = inner.visual, inner.language_model
    head = model.get_output_embeddings()
    tied = head.weight is language.embed_tokens.weight
    experts = _experts(language)
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    heads, size = text.num_attention_heads, getattr(text, "head_dim", None)
    size = size or text.hidden_size // heads
    tower_parts = {id(module) for module in tower.modules()}
    linears = [
        Linear(name, module.in_features, module.out_features, id(module) in tower_parts)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    full = getattr(vision, "fullatt_block_indexes", None)
    depth = int(getattr(vision, "depth", len(tower.blocks)))
    defaults = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(config.model_type, ())
    return ModelSizes(
        family=family.name,
        dtype=str(dtype).removeprefix("torch."),
        parameters=count(model),
        vision=count(tower),
        embedding=language.embed_tokens.weight.numel(),
        head=0 if tied else head.weight.numel(),
        vectors=sum(parameter.numel() for parameter in model.parameters() if parameter.ndim < 2),
        layer=max(count(layer) for layer in language.layers),
        vision_block=max(count(block) for block in tower.blocks),
        experts=experts,
        chosen=text.num_experts_per_tok / text.num_experts if experts else 1.0,
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        layers=text.num_hidden_layers,
        attention_layers=sum(kind != "linear_attention" for kind in kinds),
        query=heads * size,
        key=text.num_key_value_heads * size,
        inner=_inner(text, bool(experts)),
        vision_hidden=vision.hidden_size,
        vision_inner=vision.intermediate_size,
        vision_depth=depth,
        vision_full=depth if full is None else len(full),
        patch=vision.patch_size,
        linears=linears,
        lora_defaults=list(defaults),
    )


def count(module: nn.Module) -> int:
    """Parameters of a module, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _experts(language: nn.Module) -> int:
    """Parameters of the experts that a router chooses among; shared experts are not among them."""
    groups = [module for name, module in language.named_modules() if name.endswith(".experts")]
    return sum(count(group) for group in groups)


def _inner(text: PreTrainedConfig, experts: bool) -> int:
    if not experts:
        return int(text.intermediate_size)
    shared = getattr(text, "shared_expert_intermediate_size", 0) or 0
    return int(text.moe_intermediate_size) * int(text.num_experts_per_tok) + int(shared)
