"""A vLLM worker on a CPU that takes new weights: ``vllm serve --worker-extension-cls cpu_worker.TakesWeights``.

On a CPU vLLM packs weights for its kernels once they are loaded. Its ``reload_weights`` restores the layers, loads them
and packs them again, all but an output head that shares its weights with the embedding: that one is packed here.
"""

from __future__ import annotations

from typing import Any


class TakesWeights:
    """Mixed into vLLM's worker, which has ``reload_weights`` and ``model_runner``."""

    reload_weights: Any
    model_runner: Any

    def reload_and_pack(self, weights_path: str) -> None:
        """Load the safetensors files of a folder, the output head included."""
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        self.reload_weights(weights_path=weights_path)
        for module in self.model_runner.get_model().modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)
