"""A plugin that has a run without vLLM ask the stand-in: ``--plugins benchmarks/stand_in/client.py``.

Tensors travel as safetensors, where vLLM has a format of its own.
"""

from __future__ import annotations

import base64

import safetensors.torch
import torch
from trl.generation import vllm_client, vllm_generation

from invert_rl.errors import need_module
from invert_rl.grpo import vllm_prompts
from invert_rl.recipe import arguments


def encode_fields(modality: str, fields: dict[str, torch.Tensor]) -> str:
    """In the place of `vllm_prompts.encode_fields`, which needs vLLM."""
    tensors = {name: value.contiguous() for name, value in fields.items()}
    return base64.b64encode(safetensors.torch.save(tensors)).decode()


def need_others(module: str, option: str, instead: str = "leave the option out") -> None:
    """In the place of `need_module`, for which vLLM has to be installed."""
    if module != "vllm":
        need_module(module, option, instead)


vllm_prompts.encode_fields = encode_fields
arguments.need_module = need_others
for module in (vllm_client, vllm_generation):
    module.is_vllm_available = lambda: True
