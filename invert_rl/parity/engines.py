"""What is compared: an engine takes prompts with their video and says what it made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from invert_rl.encoding import EncodedPrompt


@dataclass(frozen=True)
class Reply:
    """An engine's answer to one prompt."""

    prompt_ids: list[int] | None
    """The prompt as the engine expanded it; None where it was given the expanded one."""
    completions: list[list[int]]
    logps: list[list[float]]
    """Log-probability of each token of each completion, under the distribution that was sampled from."""


@dataclass(frozen=True)
class Seen:
    """What reached the engine's model for one prompt."""

    positions: torch.Tensor
    """M-RoPE rows ``(3, tokens)``."""
    seconds: float | None
    """Seconds between two steps of the video's grid, where the model is told them as a number."""


class Engine(Protocol):
    """Something that completes prompts and takes weights."""

    about: dict[str, Any]
    """Name, version, precision (``dtype``) and the like, for the report."""

    def complete(self, prompts: Sequence[EncodedPrompt], settings: dict[str, Any]) -> list[Reply]:
        """Answers with vLLM's sampling ``settings`` (fields of its `SamplingParams`)."""
        ...

    def seen(self, prompt: EncodedPrompt) -> Seen | None:
        """What its model got for a prompt that it has completed; None where that cannot be looked at."""
        ...

    def prefix_length(self, prompt: EncodedPrompt) -> int:
        """How many of a prompt's first tokens its prefix cache keeps."""
        ...

    def push(self) -> None:
        """Take the weights that the trainer's model has now, as in training."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...
