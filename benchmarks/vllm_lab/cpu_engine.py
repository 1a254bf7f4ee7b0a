"""A plugin that makes vLLM on a CPU take part in training: ``--plugins benchmarks/vllm_lab/cpu_engine.py``.

On a CPU vLLM packs weights for its kernels once they are loaded, and leaves empty parameters behind that cannot be
loaded again. Its ``reload_weights`` restores the layers, loads them and packs them again, all but an output head that
shares its weights with the embedding: that one is packed here, and in a server by cpu_worker.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch

from invert_rl.grpo import vllm_rollout, vllm_server, vllm_weights

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "3000",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
"""1 GiB of cache, no thread bound to a core, no chatter, no process more than is needed; what is set already stays."""


def load_into_cpu_engine(generation: Any, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
    """`vllm_weights.load_into_engine` by vLLM's reload, the output head included."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    runner = generation.llm.llm_engine.model_executor.driver_worker.model_runner
    runner.reload_weights(weights_iterator=weights)
    for module in runner.model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)
vllm_rollout.ENGINE_ARGUMENTS["enforce_eager"] = True  # compiling would take longer than all the rest
vllm_weights.load_into_engine = load_into_cpu_engine
vllm_server.RELOAD = "reload_and_pack"
