"""Which precision weights are kept and computed in, the same by every launcher.

What is trained is kept in float32, with its gradients and both moments of Adam: in bfloat16 a step of 1e-6 is lost in
rounding for 99 % of the weights, and with beta2 = 0.999 Adam's second moment cannot decay. What is frozen, and the
reference model, stay in the precision that they were loaded in. Forwards compute under the autocast of the run.
"""

from __future__ import annotations

import os

import torch
from torch import nn
from transformers import Trainer, TrainingArguments


def without_autocast_in_float32(model: nn.Module, args: TrainingArguments) -> None:
    """Where ``args`` ask for no mixed precision, make a model that is to be trained as a whole float32, in place.

    Call it before the reference model is loaded like it: policy and reference then compute in one precision.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # by `accelerate launch`
    if not (args.bf16 or args.fp16) and launched == "no":
        model.float()


def keep_trained_in_float32(trainer: Trainer) -> int:
    """Make every trainable parameter of a trainer's model float32, in place; returns how many weights were not.

    Call it when it is known what is trained, before ``train``: the optimizer is not made yet and the model not wrapped.
    Parameters keep their identity, so that tied weights stay tied. DeepSpeed keeps float32 masters of its own and is
    left alone.
    """
    if trainer.is_deepspeed_enabled:
        return 0
    changed = 0
    for parameter in trainer.model.parameters():
        if parameter.requires_grad and parameter.is_floating_point() and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
            changed += parameter.numel()
    return changed
