"""Which epoch an optimizer step belongs to, of which kind that is, and which videos each batch holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Alternation:
    """Vision-only and vision-language epochs in turn (ActionVLM, algorithm 1); everything follows from the seed.

    An epoch is a whole number of optimizer steps, so that neither a step nor the ranks of one mix the two kinds.
    """

    videos: int
    """Training videos."""
    batch_size: int
    """Videos of a batch, on one rank."""
    parts: int
    """Batches of an optimizer step: ranks times accumulated batches."""
    seed: int
    alternate: bool = True
    """Whether vision-only epochs take turns at all; else all epochs are vision-language."""
    warmup_epochs: int = 0
    """Vision-only epochs before the turns begin [R]."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every video comes up once; the last is filled with the first videos again."""
        return math.ceil(self.videos / (self.batch_size * self.parts))

    def epoch(self, step: int) -> int:
        """The epoch of an optimizer step, from 0 on."""
        return step // self.steps_per_epoch

    def vision_only(self, epoch: int) -> bool:
        """Whether the epoch skips the language model: the first of each pair [R]."""
        return epoch < self.warmup_epochs or (self.alternate and (epoch - self.warmup_epochs) % 2 == 0)

    def places(self, step: int, part: int) -> list[int]:
        """Indices of the videos in a batch: a permutation of all in each epoch."""
        order = np.random.default_rng([self.seed, self.epoch(step)]).permutation(self.videos)
        first = ((step % self.steps_per_epoch) * self.parts + part) * self.batch_size
        return [int(order[place % self.videos]) for place in range(first, first + self.batch_size)]
