"""How weights get from the trainer into vLLM: in one call, and what is frozen only once.

Adapters travel merged into the weights they adapt. What is left out later are whole blocks in which nothing is trained
(a decoder layer, a vision block, a single module elsewhere): vLLM fuses projections of a layer (q, k and v; gate and
up), and its reload takes a fused one whole or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import nn
from trl.generation import vllm_generation as trl_vllm

WRAPPERS = re.compile(r"(_checkpoint_wrapped_module|_fsdp_wrapped_module|_orig_mod|modules_to_save\.default)\.")
ADAPTED = re.compile(r"^base_model\.model\.|\.base_layer\b|\.lora_\w+.*$")
NUMBERED = re.compile(r".*?\.\d+(?=\.)")


def send_weights(generation: trl_vllm.VLLMGeneration) -> None:
    """Give the engine the trainer's weights and empty its prefix cache; a collective call.

    All of them the first time, after sleep, which discards the engine's, and where ``generation.has_frozen`` was set
    to False because the engine is a new one; otherwise those of blocks in which something is trained.
    """
    asleep = generation.mode == "colocate" and generation.enable_sleep_mode
    if asleep:
        trl_vllm.empty_cache()
        generation.llm.wake_up(tags=["weights"])
        generation._llm_weights_sleeping = False
    flat = any(name.endswith("_flat_param") for name, _ in generation.model.named_parameters())  # FSDP1: no blocks left
    everything = asleep or flat or not getattr(generation, "has_frozen", False)
    if generation.mode == "colocate":
        load_into_engine(generation, _named_weights(generation, everything))
        generation.llm.reset_prefix_cache()
    else:
        _send_to_server(generation, everything)
    generation.has_frozen = True


def load_into_engine(generation: trl_vllm.VLLMGeneration, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Have the engine of this process load weights by name, all in one call."""
    generation.llm.llm_engine.model_executor.driver_worker.model_runner.model.load_weights(weights)


def _send_to_server(generation: trl_vllm.VLLMGeneration, everything: bool) -> None:
    """The main process sends, in one update; the others take part in gathering."""
    if generation._weight_metadata is None:  # the server must know each tensor before the first is sent
        generation._weight_metadata = [
            (name, str(weight.dtype).removeprefix("torch."), list(weight.shape))
            for name, weight in generation._iter_named_params()
        ]
    weights = _named_weights(generation, everything)
    if not generation.accelerator.is_main_process:
        for _ in weights:
            pass
        return
    trained = trained_blocks(generation.model)
    metadata = [one for one in generation._weight_metadata if everything or block_of(one[0]) in trained]
    generation.vllm_client.update_named_params(metadata, weights)
    generation.vllm_client.reset_prefix_cache()


def _named_weights(generation: trl_vllm.VLLMGeneration, everything: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights under vLLM's names; all ranks must exhaust it, as sharded weights are gathered one by one."""
    trained = trained_blocks(generation.model)
    for name, weight in generation._iter_named_params():
        if everything or block_of(name) in trained:
            yield name, weight


def trained_blocks(model: nn.Module) -> set[str]:
    """Names of the blocks in which something is trained, an adapter included."""
    return {block_of(plain_name(name)) for name, weight in model.named_parameters() if weight.requires_grad}


def plain_name(name: str) -> str:
    """A parameter's name without what wrappers and adapters put into it; that of an adapter is its module's."""
    return ADAPTED.sub("", WRAPPERS.sub("", name))


def block_of(name: str) -> str:
    """The numbered block that a weight is of, else its module: ``model.visual.blocks.3``, ``lm_head``."""
    numbered = NUMBERED.match(name + ".")
    if numbered:
        return numbered[0]
    module, _, last = name.rpartition(".")
    return module if last in ("weight", "bias") else name
