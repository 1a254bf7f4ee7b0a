"""The model that a run trains: a checkpoint, a checkpoint with new adapters, or one with adapters to go on with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
from transformers import BitsAndBytesConfig, PreTrainedModel
from trl import ModelConfig, get_peft_config, get_quantization_config

from data_prep.errors import DataError
from invert_rl.models import Adapter, adapter_of, load_model

PACKS_FOR_CPU = "support_avx512bf16_for_cpu"
"""Attribute of bitsandbytes' 4-bit layers: whether a forward in evaluation mode packs their weights."""

NEW_ADAPTER = ("use_peft", "lora_", "use_rslora", "use_dora")
"""Beginnings of the options that describe a new adapter."""


@dataclass(frozen=True)
class Policy:
    """What a trainer is given to train."""

    model: PreTrainedModel
    peft_config: PeftConfig | None
    """Adapters for the trainer to put on ``model``; None to train it as a whole."""
    adapter: Adapter | None = None
    """Where these adapters' weights are; None for new ones."""

    def start(self, trained: PreTrainedModel | PeftModel) -> None:
        """Give the model that a trainer has made of this policy the adapters that it starts from, if there are any.

        The trainer's reference is then the base without adapters, as it was in the run that made them.
        """
        if self.adapter is None:
            return
        weights = load_peft_weights(self.adapter.name, device="cpu", revision=self.adapter.revision)
        outcome = set_peft_model_state_dict(trained, weights)
        missing = [name for name in outcome.missing_keys if "lora_" in name]
        if missing or outcome.unexpected_keys:
            raise DataError(
                f"{self.adapter.name}: the adapter does not fit its base {self.adapter.base}: "
                f"{[*missing, *outcome.unexpected_keys][0]}"
            )


def load_policy(name: str, model_args: ModelConfig, trained_positions: bool = True) -> Policy:
    """The model of ``name`` as the options of TRL's `ModelConfig` say, quantized if they do.

    ``name`` may be the folder of an adapter: its base is loaded and `Policy.start` gives it the adapter. Raises
    `DataError` for options that contradict that, and where bitsandbytes is missing.
    """
    adapter = adapter_of(name, model_args.model_revision)
    settings: dict[str, Any] = {"dtype": model_args.dtype, "attn_implementation": model_args.attn_implementation}
    quantization = quantization_of(model_args, adapted=adapter is not None)
    if quantization is not None:
        settings["quantization_config"] = quantization
    if adapter is None:
        model = _trainable(load_model(name, model_args.model_revision, trained_positions, **settings))
        return Policy(model, get_peft_config(model_args))
    defaults = type(model_args).__dataclass_fields__
    given = [n for n in defaults if n.startswith(NEW_ADAPTER) and getattr(model_args, n) != defaults[n].default]
    if given and given != ["use_peft"]:
        raise DataError(
            f"{name} is an adapter and keeps its own settings: leave {', '.join(given)} out; for a new adapter on top "
            f"of it merge it first (`invert-rl merge {name} --output DIR`)"
        )
    config = PeftConfig.from_pretrained(adapter.name, revision=adapter.revision)
    config.inference_mode = False
    base = _trainable(load_model(adapter.base, adapter.base_revision, trained_positions, **settings))
    return Policy(base, config, adapter)


def _trainable(model: PreTrainedModel) -> PreTrainedModel:
    """Keep bitsandbytes from packing 4-bit weights for inference on a CPU: no gradient comes through them then."""
    for module in model.modules():
        if hasattr(module, PACKS_FOR_CPU):
            setattr(module, PACKS_FOR_CPU, False)
    return model


def name_base_absolutely(model: PreTrainedModel | PeftModel) -> None:
    """Let adapters of a base in a local folder say where it is in full, so that they load from anywhere."""
    for config in getattr(model, "peft_config", {}).values():
        if config.base_model_name_or_path and os.path.isdir(config.base_model_name_or_path):
            config.base_model_name_or_path = os.path.abspath(config.base_model_name_or_path)


def quantization_of(model_args: ModelConfig, adapted: bool = False) -> BitsAndBytesConfig | None:
    """How ``load_in_4bit`` and ``load_in_8bit`` load the language model; vision tower and head stay as they are.

    ``adapted``: the checkpoint is itself an adapter. Raises `DataError` without adapters to train or without
    bitsandbytes.
    """
    if not (model_args.load_in_4bit or model_args.load_in_8bit):
        return None
    option = "load_in_4bit" if model_args.load_in_4bit else "load_in_8bit"
    if not (model_args.use_peft or adapted):
        raise DataError(f"{option}: quantized weights cannot be trained; add --use_peft")
    if find_spec("bitsandbytes") is None:
        raise DataError(f'{option} needs bitsandbytes: pip install -e ".[quantization]"')
    config = get_quantization_config(model_args)
    config.llm_int8_skip_modules = ["visual", "model.visual", "lm_head"]
    if model_args.load_in_4bit and config.bnb_4bit_compute_dtype not in (torch.float16, torch.bfloat16):
        config.bnb_4bit_compute_dtype = torch.bfloat16
    return config
