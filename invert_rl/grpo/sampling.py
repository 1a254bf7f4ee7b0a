"""Sampling whose random numbers belong to the completion, not to the process that happens to generate it.

Completion ``c`` of the prompt at place ``slot`` of round ``k`` draws its tokens by numbers that depend on the run's
seed, ``k``, ``slot`` and ``c`` alone. Rollouts are then the same on one rank and on many, whatever else is in the
batch, and after a resume.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from invert_rl.schedule import SAMPLING, Draw, generator

NOT_SUPPORTED = ("typical_p", "epsilon_cutoff", "eta_cutoff", "top_h", "watermarking_config")
"""Settings that transformers would apply after the token is chosen, and so without effect."""


def sampling_numbers(seed: int, draws: Sequence[Draw], first: int, num_generations: int, length: int) -> torch.Tensor:
    """Random numbers in [0, 1), shape ``(len(draws), length)``, one for each token of each completion.

    ``draws`` are this process's part of a round, which starts at place ``first`` of the round's completions.
    """
    rows = [
        generator(seed, SAMPLING, draw.round, draw.slot, (first + place) % num_generations).random(length, np.float32)
        for place, draw in enumerate(draws)
    ]
    return torch.from_numpy(np.stack(rows))


def request_seed(seed: int, draw: Draw, completion: int) -> int:
    """The seed with which an engine samples completions of a draw from number ``completion`` of its group on.

    vLLM adds 0, 1, … to it for the completions of one request, so it stays below 2**62.
    """
    return int(generator(seed, SAMPLING, draw.round, draw.slot, completion).integers(2**62))


def sampling_processors(config: GenerationConfig, numbers: torch.Tensor) -> LogitsProcessorList:
    """What to pass to ``generate`` as ``logits_processor`` so that it samples by ``numbers``.

    Temperature, top-k, top-p and min-p of ``config`` are applied first. Raises `ValueError` for settings that would
    be ignored.
    """
    ignored = [name for name in NOT_SUPPORTED if getattr(config, name, None) not in (None, 0.0, 1.0)]
    if ignored:
        raise ValueError(
            f"generation_kwargs sets {', '.join(ignored)}, which rollouts do not support; use temperature, top_k, "
            "top_p, min_p"
        )
    processors = LogitsProcessorList()
    if config.temperature is not None and config.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(config.temperature))
    if config.top_k:
        processors.append(TopKLogitsWarper(config.top_k))
    if config.top_p is not None and config.top_p < 1.0:
        processors.append(TopPLogitsWarper(config.top_p))
    if config.min_p is not None:
        processors.append(MinPLogitsWarper(config.min_p))
    processors.append(ChooseByNumbers(numbers))
    return processors


def greedily(config: GenerationConfig) -> GenerationConfig:
    """The same for ``generate`` under `sampling_processors`, which leave it one token to take and nothing to draw."""
    taken = copy.deepcopy(config)
    taken.update(do_sample=False, temperature=None, top_k=None, top_p=None, min_p=None)
    return taken


class ChooseByNumbers(LogitsProcessor):
    """Leaves each row one token: the one at which its cumulative distribution passes the row's next number."""

    def __init__(self, numbers: torch.Tensor) -> None:
        """``numbers``: in [0, 1), shape ``(rows, tokens)``."""
        self.numbers = numbers
        self.step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores ``(rows, vocabulary)`` that are 0 for the chosen token and -inf for all others."""
        # In double precision, so that the choice hardly ever depends on the rounding of another batch's kernels.
        distribution = torch.softmax(scores.double(), dim=-1).cumsum(dim=-1)
        number = self.numbers[:, self.step, None].to(distribution)
        self.step += 1
        token = torch.searchsorted(distribution, number * distribution[:, -1:], right=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)
