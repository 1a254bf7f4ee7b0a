"""The trainer of LLaVAction: learning rates by part, LoRA beside token and heads, checkpoints with the heads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin

from data_prep.errors import DataError
from invert_rl.llavaction.data import Batches, Classes
from invert_rl.llavaction.model import HEADS_FOLDER, PREFIX, action_settings, load_action_weights
from invert_rl.precision import keep_trained_in_float32, without_autocast_in_float32
from invert_rl.tal.training import SupervisedArguments, SupervisedTrainer

VISION = (".visual.", ".vision_tower.")
"""What the names of a vision encoder's weights hold; the projector between it and the language model is not of it."""
PROJECTOR = (".merger.", ".merger_list.", ".deepstack_merger_list.")
NO_DECAY = ("bias", "norm.weight", "norm1.weight", "norm2.weight", "layernorm.weight", "layer_norm1.weight")


class LLaVActionTrainer(SupervisedTrainer):
    """A `SupervisedTrainer` that resumes a model with action heads."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target = self.model if model is None else model
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if sharded or not isinstance(target, PreTrainedModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_action_weights(target, resume_from_checkpoint)


def make_trainer(
    model: PreTrainedModel, batches: Batches, args: SupervisedArguments, vision_learning_rate: float | None = None
) -> LLaVActionTrainer:
    """A trainer of ``model`` on ``batches``; the vision encoder has a learning rate of its own if one is given."""
    if args.gradient_checkpointing:
        model.config.use_cache = False
    if not isinstance(model, PeftModel):
        without_autocast_in_float32(model, args)
    groups = parameter_groups(model, args.learning_rate, vision_learning_rate, args.weight_decay)
    trainer = LLaVActionTrainer(model=model, draw=batches, args=args, groups=groups)
    keep_trained_in_float32(trainer)
    if trainer.is_fsdp_enabled and isinstance(model, PeftModel) and model.config.tie_word_embeddings:
        raise DataError(
            "FSDP2 does not take LoRA beside a trained token whose embedding is also an output weight "
            "(tie_word_embeddings); train with DDP or ZeRO-2, or without --use_peft"
        )
    return trainer


def parameter_groups(
    model: nn.Module, learning_rate: float, vision_learning_rate: float | None, weight_decay: float
) -> list[dict[str, Any]]:
    """Trainable weights of the vision encoder and the rest, each with and without weight decay (biases, norms)."""
    vision_rate = learning_rate if vision_learning_rate is None else vision_learning_rate
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = vision_rate if is_vision(name) else learning_rate
            decay = 0.0 if name.endswith(NO_DECAY) else weight_decay
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in sorted(groups.items())]


def is_vision(name: str) -> bool:
    """Whether a weight belongs to the vision encoder, its projector left aside (paper, section 4.1)."""
    dotted = f".{name}"
    return any(part in dotted for part in VISION) and not any(part in dotted for part in PROJECTOR)


def with_lora(model: PreTrainedModel, config: LoraConfig | None) -> PreTrainedModel | PeftModel:
    """The model with LoRA, whose action token and heads are trained as a whole; unchanged without ``config``."""
    if config is None:
        return model
    config.modules_to_save = [*(config.modules_to_save or ()), PREFIX.rstrip(".")]
    config.trainable_token_indices = action_settings(model.config).ids
    return get_peft_model(model, config)


def save_for_inference(
    trainer: LLaVActionTrainer,
    processor: ProcessorMixin,
    folder: str | os.PathLike[str],
    classes: Classes,
    rebuild: Callable[[], PreTrainedModel | PeftModel],
) -> None:
    """Write a checkpoint folder of the whole model, LoRA merged, with tokenizer, processor and ``classes.json``.

    It is a plain checkpoint of its architecture, for vLLM too; the heads lie beside it in `HEADS_FOLDER`. Called on all
    ranks. A sharded model is gathered on the main one, where LoRA is merged into what ``rebuild`` makes: the model as
    it was before training.
    """
    folder = Path(folder)
    model = trainer.accelerator.unwrap_model(trainer.model)
    state = None
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        state = trainer.accelerator.get_state_dict(trainer.model)
    if trainer.accelerator.is_main_process:
        if isinstance(model, PeftModel):
            if state is not None:
                model = rebuild()
                model.load_state_dict(state, strict=True)
                state = None
            model = model.merge_and_unload()
        save_whole(model, folder, state)
        processor.save_pretrained(folder)
        classes.write(folder / "classes.json")
    trainer.accelerator.wait_for_everyone()


def save_whole(model: PreTrainedModel, folder: Path, state: dict[str, torch.Tensor] | None = None) -> None:
    """Write a model, or its gathered weights, so that whoever loads it generates with a cache; its heads apart."""
    state = dict(model.state_dict() if state is None else state)
    heads = {name: state.pop(name).contiguous() for name in list(state) if name.startswith(PREFIX)}
    (folder / HEADS_FOLDER).mkdir(parents=True, exist_ok=True)
    save_file(heads, folder / HEADS_FOLDER / "heads.safetensors", metadata={"format": "pt"})
    used_cache = model.config.use_cache if hasattr(model.config, "use_cache") else True
    model.config.use_cache = True
    try:
        with torch.no_grad():
            model.save_pretrained(folder, state_dict=state)
    finally:
        model.config.use_cache = used_cache
