"""Rollouts by a vLLM server: TRL's client of ``vllm serve``, with video.

TRL's own requests carry images only. Here each rank asks the server itself, once for each of its different prompts;
weights go the way TRL sends them, by NCCL, and through a folder where the trainer has no GPU.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from trl.generation.vllm_client import VLLMClient

from invert_rl.encoding import EncodedPrompt
from invert_rl.grpo.vllm_prompts import served_prompt

logger = logging.getLogger(__name__)

CONCURRENT_REQUESTS = 64
"""Most prompts that one rank has with the server at the same time; it batches all that it has."""

COMMAND = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --host 127.0.0.1 --enable-scale-out --no-mm-device-do-normalize "
    "--dtype {dtype} "
    """--logprobs-mode processed_logprobs --weight-transfer-config '{{"backend": "nccl"}}'"""
)
"""How the server is to be started."""

RELOAD = "reload_weights"
"""The method of vLLM's workers that reads weights from a folder."""

CACHES = ("mm", "encoder")
"""What the server remembers of videos; vision features of old weights are among it."""


class ServerError(RuntimeError):
    """The vLLM server refused a request or is not set up as training needs it; the message says how it should be."""


class VideoClient(VLLMClient):
    """TRL's client of ``vllm serve`` with prompts that hold a video.

    Args:
        dtype: precision of the trainer, in which the server has to compute and gets the patches of a video.
    """

    weights_folder: tempfile.TemporaryDirectory | None = None

    def __init__(self, *args: Any, dtype: torch.dtype, **kwargs: Any) -> None:
        self.dtype = dtype
        super().__init__(*args, **kwargs)

    def complete(
        self, prompts: Sequence[EncodedPrompt], settings: Sequence[dict[str, Any]]
    ) -> list[list[tuple[list[int], list[float]]]]:
        """For each prompt ``n`` of its settings completions: token ids, and the log-probability of each of them.

        Raises `ServerError` if the server refuses a prompt.
        """
        bodies = [
            {"model": self.model, **served_prompt(prompt, self.dtype), "sampling_params": setting}
            for prompt, setting in zip(prompts, settings, strict=True)
        ]
        with ThreadPoolExecutor(max_workers=min(CONCURRENT_REQUESTS, len(bodies))) as pool:
            return list(pool.map(self._complete, prompts, bodies))

    def _complete(self, prompt: EncodedPrompt, body: dict[str, Any]) -> list[tuple[list[int], list[float]]]:
        response = self.session.post(f"{self.base_url}/inference/v1/generate", json=body)
        if response.status_code != 200:
            name = prompt.clip.path if prompt.clip else "a prompt"
            hint = f"; start it with: {self._command()}" if response.status_code == 404 else ""
            raise ServerError(f"{name}: {self.base_url} answered {response.status_code}: {response.text}{hint}")
        choices = sorted(response.json()["choices"], key=lambda choice: choice["index"])
        wanted = body["sampling_params"]["n"]
        if len(choices) != wanted:
            raise ServerError(f"{self.base_url} gave {len(choices)} of {wanted} completions; use vLLM 0.31")
        return [
            (choice["token_ids"], [token["logprob"] for token in choice["logprobs"]["content"]]) for choice in choices
        ]

    def init_communicator(self, device: torch.device | str | int = 0) -> None:
        """Open the way for weights, after a look at the server's settings.

        Raises `ServerError` if the server computes in another precision, normalizes patches, which come normalized, or
        gives log-probabilities before temperature.
        """
        settings = self.get_server_info()["model_config"]
        found = {**settings, **settings["multimodal_config"]}
        wanted = {
            "dtype": str(self.dtype),
            "logprobs_mode": "processed_logprobs",
            "mm_device_do_normalize": False,
        }
        wrong = [f"{name} {found[name]} (not {value})" for name, value in wanted.items() if found[name] != value]
        if wrong:
            raise ServerError(f"{self.base_url} runs with {', '.join(wrong)}; start it with: {self._command()}")
        if torch.device(device).type == "cuda":
            super().init_communicator(device)
        else:
            self.weights_folder = tempfile.TemporaryDirectory(prefix="invert_rl_weights_")
            logger.warning("no GPU, no NCCL: the server at %s must be able to read %s", self.base_url, self._folder())

    def update_named_params(
        self, metadata: list[tuple[str, str, list[int]]], named_params: Iterator[tuple[str, torch.Tensor]]
    ) -> None:
        """Give the server all weights: by NCCL, or by its `RELOAD` of a folder where there is no GPU."""
        if self.weights_folder is None:
            super().update_named_params(metadata, named_params)
            return
        # Copies: adapters are merged into the weights only while they are iterated.
        weights = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in named_params
        }
        save_file(weights, self._folder() / "model.safetensors")
        self._call("collective_rpc", {"method": RELOAD, "kwargs": {"weights_path": str(self._folder())}})

    def reset_prefix_cache(self) -> None:
        """Have the server forget prefixes and videos, which it remembers as the old weights saw them.

        Raises `ServerError` if it cannot, as while somebody else's request runs.
        """
        answer = self._call("reset_prefix_cache").json()
        if not answer["success"]:
            raise ServerError(f"{self.base_url} did not forget its prefixes: does anybody else use this server?")
        for cache in CACHES:
            self._call(f"reset_{cache}_cache")

    def _call(self, route: str, body: dict[str, Any] | None = None) -> Any:
        """POST to one of the server's development routes; raises `ServerError` unless it says 200."""
        response = self.session.post(f"{self.base_url}/{route}", json=body)
        if response.status_code != 200:
            raise ServerError(f"{self.base_url}/{route} answered {response.status_code}: {response.text}")
        return response

    def _folder(self) -> Path:
        assert self.weights_folder is not None
        return Path(self.weights_folder.name)

    def _command(self) -> str:
        return COMMAND.format(dtype=str(self.dtype).removeprefix("torch."))
