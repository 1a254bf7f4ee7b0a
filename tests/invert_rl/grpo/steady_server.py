"""A stand-in for ``vllm serve`` whose answers follow from weights, prompt and seed alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from tests.invert_rl.grpo.test_vllm_server import StandInServer


class Served(NamedTuple):
    """A request: the server's weights when it was answered, its prompt, and how it was sampled."""

    weights: str
    prompt: str
    sampling: dict[str, Any]


def fingerprint(model: torch.nn.Module) -> str:
    """A digest of all weights of a model."""
    digest = hashlib.sha256()
    for name, value in sorted(model.named_parameters()):
        digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


class SteadyServer(StandInServer):
    """Notes with which weights it answers; ``before`` is called with the number of each request before that."""

    def __init__(self, checkpoint: str, **settings: Any) -> None:
        super().__init__(checkpoint, **settings)
        self.before: Callable[[int], Any] = lambda number: None
        self.heeds_seeds = True
        self.served: list[Served] = []

    def generate(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """As the stand-in does, with a generator for each request."""
        self.before(len(self.served))
        prompt = hashlib.sha256(json.dumps([body["token_ids"], body["features"]]).encode()).hexdigest()
        sampling = body["sampling_params"]
        self.served.append(Served(fingerprint(self.engine.model), prompt, sampling))
        seed = sampling.get("seed") if self.heeds_seeds else None
        self.engine.generator = torch.Generator().manual_seed(int(prompt[:15], 16) if seed is None else seed)
        return super().generate(body)

    @property
    def prompts(self) -> list[str]:
        """Of all requests, in their order."""
        return [request.prompt for request in self.served]
