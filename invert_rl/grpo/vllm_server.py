"""Rollouts by a vLLM server: TRL's client of ``vllm serve``, with video.

TRL's own requests carry images only. Here each rank asks the server itself, once for each of its different prompts;
weights go the way TRL sends them, by NCCL, and through a folder where the trainer has no GPU.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import requests
import torch
from requests.adapters import HTTPAdapter
from safetensors.torch import save_file
from transformers import AutoConfig, PreTrainedConfig
from trl.generation.vllm_client import VLLMClient
from urllib3.exceptions import HTTPError, ReadTimeoutError

from invert_rl.encoding import EncodedPrompt
from invert_rl.grpo.vllm_answers import read_completions
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

TOKEN = "VLLM_API_KEY"
"""Environment variable of the server's token: vLLM's own name for it."""

LIMIT = 600.0
"""Seconds that an answer, or a transfer of weights, may take where nothing else is said."""

QUICK = 60.0
"""Seconds that a question about the server itself may take."""

CONNECT = 10.0
"""Seconds that it may take to reach the server."""

SHAPE = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "depth", "num_heads", "out_hidden_size", "patch_size", "num_experts"),
    *("temporal_patch_size", "spatial_merge_size", "tie_word_embeddings"),
)
"""Settings of a model that must be the same in server and trainer."""

CACHES = ("mm", "encoder")
"""What the server remembers of videos; vision features of old weights are among it."""


class ServerError(RuntimeError):
    """The vLLM server refused, did not answer, answered nonsense or is not set up as training needs it.

    The message says what to do.
    """


class ServerLostError(ServerError):
    """Nothing answers at the server's address: it has ended, or is being started again."""


class VideoClient(VLLMClient):
    """TRL's client of ``vllm serve`` with prompts that hold a video; every request has a time limit.

    A server that wants a token (``vllm serve --api-key``) gets that of the environment variable `TOKEN`.

    Args:
        dtype: precision of the trainer, in which the server has to compute and gets the patches of a video.
        config: configuration of the trainer's model, with which the server's is compared.
        connection_timeout: seconds to wait for the server to be up, and for any answer of its; 0: `LIMIT` for these.
    """

    weights_folder: tempfile.TemporaryDirectory | None = None

    def __init__(
        self,
        *args: Any,
        dtype: torch.dtype,
        config: PreTrainedConfig | None = None,
        connection_timeout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.dtype, self.config, self.limit = dtype, config, connection_timeout or LIMIT
        super().__init__(*args, connection_timeout=connection_timeout, **kwargs)

    def complete(
        self, prompts: Sequence[EncodedPrompt], settings: Sequence[dict[str, Any]]
    ) -> list[list[tuple[list[int], list[float]]]]:
        """For each prompt ``n`` of its settings completions: token ids, and the log-probability of each of them.

        Raises `ServerError` if the server refuses a prompt, does not answer in time, or gives what cannot be an answer,
        and `ServerLostError` if it is gone.
        """
        bodies = [
            {"model": self.model, **served_prompt(prompt, self.dtype), "sampling_params": setting}
            for prompt, setting in zip(prompts, settings, strict=True)
        ]
        # Threads of this pool, unlike those of concurrent.futures, do not keep a process that ends waiting.
        with ThreadPool(min(CONCURRENT_REQUESTS, len(bodies))) as pool:
            return pool.starmap(self._complete, zip(prompts, bodies, strict=True), chunksize=1)

    def _complete(self, prompt: EncodedPrompt, body: dict[str, Any]) -> list[tuple[list[int], list[float]]]:
        vocabulary = None if self.config is None else self.config.get_text_config().vocab_size
        name = str(prompt.clip.path) if prompt.clip else "a prompt"
        answer = self._ask("POST", "inference/v1/generate", body, self.limit, name)
        try:
            return read_completions(answer, body["sampling_params"], vocabulary)
        except ValueError as error:
            raise ServerError(f"{name}: {self.base_url} gave no answer that can be: {error}; use vLLM 0.31") from None

    def check_server(self, total_timeout: float = 0.0, retry_interval: float = 2.0) -> None:
        """Wait up to ``total_timeout`` seconds for the server to say that it is well; raises `ServerLostError`."""
        self.session.trust_env = False  # no proxy between trainer and server
        for scheme in ("http://", "https://"):
            # No request is sent twice behind our back: each has its time limit, a lost server is attached anew.
            self.session.mount(scheme, HTTPAdapter(max_retries=0, pool_maxsize=CONCURRENT_REQUESTS))
        token = os.environ.get(TOKEN)
        if token:
            self.session.headers["Authorization"] = f"Bearer {token}"
        deadline = time.monotonic() + total_timeout
        while True:
            try:
                self._ask("GET", "health", limit=max(1.0, min(QUICK, total_timeout)))
                return
            except ServerError as error:
                if time.monotonic() >= deadline:
                    raise ServerLostError(
                        f"{self.base_url}: no vLLM server after {total_timeout:g} s ({error}); start it with: "
                        f"{self._command()}"
                    ) from error
            time.sleep(min(retry_interval, max(0.0, deadline - time.monotonic())))

    def attach_again(self, timeout: float, device: torch.device | str | int | None) -> None:
        """Wait for a server that was lost to be back, and set up what a new one does not know.

        ``device``, that of `init_communicator`, is None for ranks that send no weights.
        """
        self.check_server(timeout)
        self.model = self._get(f"{self.base_url}/v1/models")["data"][0]["id"]
        if device is not None:
            with suppress(Exception):  # the other end of the old way has gone
                self.close_communicator()
            self.init_communicator(device)

    def started(self) -> float | None:
        """When the server's process began, by its own metrics; None where it does not say."""
        try:
            text = self._ask("GET", "metrics", raw=True)
        except ServerError:
            return None
        found = re.search(r"^process_start_time_seconds ([0-9.e+]+)", str(text), re.MULTILINE)
        return float(found[1]) if found else None

    def get_server_info(self) -> dict[str, Any]:
        """The server's settings, of its development route."""
        return self._ask("GET", "server_info?config_format=json")["vllm_config"]

    def _get(self, url: str, **kwargs: Any) -> Any:
        return self._ask("GET", url.removeprefix(f"{self.base_url}/"))

    def _post(self, url: str, **kwargs: Any) -> Any:
        return self._ask("POST", url.removeprefix(f"{self.base_url}/"), kwargs.get("json"), self.limit)

    def _ask(
        self,
        method: str,
        route: str,
        body: dict[str, Any] | None = None,
        limit: float | None = None,
        about: str | None = None,
        raw: bool = False,
    ) -> Any:
        """One request; returns the JSON of the answer, None for an empty one, or its text if ``raw``.

        Raises `ServerError` for an answer that is late, not 200 or not JSON, and `ServerLostError` for none.
        """
        limit = min(QUICK, self.limit) if limit is None else limit
        place = f"{f'{about}: ' if about else ''}{self.base_url}/{route.split('?')[0]}"
        deadline = time.monotonic() + limit
        try:
            with self.session.request(
                method, f"{self.base_url}/{route}", json=body, timeout=(min(limit, CONNECT), limit), stream=True
            ) as response:
                content = bytearray()
                while block := response.raw.read1(1 << 20, decode_content=True):
                    content += block
                    if time.monotonic() > deadline:
                        raise requests.ReadTimeout
        except (requests.Timeout, ReadTimeoutError) as error:
            raise ServerError(
                f"{place}: no answer within {limit:g} s; look at the server, start it again if it hangs, and give a "
                "longer --vllm_server_timeout where answers take that long"
            ) from error
        except (requests.RequestException, HTTPError, OSError) as error:
            raise ServerLostError(
                f"{place}: the server is gone ({type(error).__name__}); start it again with: {self._command()}"
            ) from error
        text = content.decode(errors="replace")
        if response.status_code != 200:
            hint = f"; start it with: {self._command()}" if response.status_code == 404 else ""
            if response.status_code in (401, 403):
                hint = f"; put the server's --api-key into the environment variable {TOKEN}"
            raise ServerError(f"{place} answered {response.status_code}: {text[:500]}{hint}")
        if raw:
            return text
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise ServerError(f"{place} answered what is not JSON: {text[:80]!r}; is this vLLM 0.31?") from None

    def init_communicator(self, device: torch.device | str | int = 0) -> None:
        """Open the way for weights, after a look at the server's settings.

        Raises `ServerError` if the server computes in another precision, normalizes patches, which come normalized,
        gives log-probabilities before temperature, or has a model of another shape than the trainer's.
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
        self._compare_models()
        if torch.device(device).type == "cuda":
            try:
                super().init_communicator(device)
            except ServerError:
                raise
            except RuntimeError as error:
                raise ServerError(f"{self.base_url}: {error}") from error
        else:
            self.weights_folder = tempfile.TemporaryDirectory(prefix="invert_rl_weights_")
            logger.warning("no GPU, no NCCL: the server at %s must be able to read %s", self.base_url, self._folder())

    def _compare_models(self) -> None:
        """Compare the configuration in the folder that the server serves, where it can be read, with the trainer's."""
        if self.config is None or not os.path.isdir(self.model):
            return
        theirs, ours = (_shape_of(config) for config in (AutoConfig.from_pretrained(self.model), self.config))
        wrong = [
            f"{name} {theirs.get(name)} (not {value})" for name, value in ours.items() if theirs.get(name) != value
        ]
        if wrong:
            raise ServerError(
                f"{self.base_url} serves {self.model}, another model than the trainer's: {', '.join(wrong[:5])}; start "
                f"it with the trainer's: {self._command()}"
            )

    def update_named_params(
        self, metadata: list[tuple[str, str, list[int]]], named_params: Iterator[tuple[str, torch.Tensor]]
    ) -> None:
        """Give the server all weights: by NCCL, or by its `RELOAD` of a folder where there is no GPU."""
        if self.weights_folder is None:
            try:
                super().update_named_params(metadata, named_params)
            finally:
                for _ in named_params:  # other ranks take part in gathering each of them
                    pass
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
        answer = self._call("reset_prefix_cache")
        if not (isinstance(answer, dict) and answer.get("success")):
            raise ServerError(f"{self.base_url} did not forget its prefixes: does anybody else use this server?")
        for cache in CACHES:
            self._call(f"reset_{cache}_cache")

    def _call(self, route: str, body: dict[str, Any] | None = None) -> Any:
        """POST to one of the server's development routes; raises `ServerError` unless it says 200."""
        return self._ask("POST", route, body, self.limit)

    def _folder(self) -> Path:
        assert self.weights_folder is not None
        return Path(self.weights_folder.name)

    def _command(self) -> str:
        return COMMAND.format(dtype=str(self.dtype).removeprefix("torch."))


def _shape_of(config: PreTrainedConfig) -> dict[str, Any]:
    """Numbers and kinds of a model's configuration that its weights' shapes follow from, by dotted name."""
    found: dict[str, Any] = {}

    def walk(values: Any, prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")
            elif name in SHAPE:
                found[prefix + name] = value

    walk(config.to_dict(), "")
    return found
