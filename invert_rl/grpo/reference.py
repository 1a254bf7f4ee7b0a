"""The reference model of the KL term: the policy's first weights, sharded as the policy is, followed by checkpoints.

TRL loads it and shards it under FSDP2 as one unit, so that each of its forwards gathers the whole model on every GPU:
16.6 GB for 7B parameters in half precision. Here it is sharded as accelerate shards the policy, layer by layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from safetensors.torch import save_file, save_model
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from trl.models import prepare_fsdp
from trl.trainer import grpo_trainer as trl_grpo

from invert_rl.loading import load_tensors, read_tensors, readable


@contextmanager
def reference_of(model: PreTrainedModel) -> Iterator[None]:
    """Have TRL load, inside this context, the reference model of ``model``'s revision, and shard it by layer."""
    loads, shards = trl_grpo.create_model_from_path, trl_grpo.prepare_fsdp
    revision = getattr(model, "loaded_revision", None)
    trl_grpo.create_model_from_path = partial(loads, revision=revision) if revision else loads
    trl_grpo.prepare_fsdp = shard_by_layer
    try:
        yield
    finally:
        trl_grpo.create_model_from_path, trl_grpo.prepare_fsdp = loads, shards


def shard_by_layer(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """A reference model in shards over the ranks, as the policy is (FSDP2), in place; a collective call.

    Nothing of it is trained, so that it stays in the precision that it was loaded in.
    """
    if accelerator.state.fsdp_plugin.fsdp_version == 1:
        return prepare_fsdp(model, accelerator)  # which goes by layer there
    model = fsdp2_prepare_model(accelerator, model.requires_grad_(False)).eval()
    model.set_reshard_after_forward(True)  # embedding and head too: no backward follows that would need them again
    return model


def save_reference(model: nn.Module, path: Path, is_main_process: bool) -> None:
    """Write a reference model, whole or in shards of FSDP2, into one file; a collective call, one process writes."""
    if isinstance(model, FSDPModule):
        weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if is_main_process:
            save_file({name: value.clone() for name, value in weights.items()}, path)  # tied ones twice
    elif is_main_process:
        save_model(model, str(path))


def load_reference(model: nn.Module, path: Path) -> None:
    """Take up again what `save_reference` wrote; a collective call; raises `CheckpointError` where it does not fit."""
    if not isinstance(model, FSDPModule):
        load_tensors(model, read_tensors(path), path)
        return
    with readable(path):
        set_model_state_dict(model, read_tensors(path), options=StateDictOptions(full_state_dict=True))
