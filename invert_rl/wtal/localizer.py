"""What the semantic branches need of a weakly supervised localizer: any method that offers this can be their base."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Activations:
    """What a localizer finds in a batch of B videos of T snippets; background is the last of the C + 1 classes."""

    cas: Tensor
    """Class activation sequence, logits ``(B, T, C + 1)``."""
    attention: Tensor
    """How much each snippet is action, ``(B, T)`` in [0, 1]."""
    stream_attention: tuple[Tensor, ...]
    """The attention of each stream, ``(B, T)`` each; their mean is ``attention``."""
    embedding: Tensor
    """Features of the snippets under the attention's gates, ``(B, T, E)``."""
    hidden: Tensor
    """What class vectors are multiplied with, ``(B, T, width)``: ``cas = hidden @ vectors.T``."""


class Localizer(nn.Module, ABC):
    """A base method: snippets in, activations and its own losses out."""

    width: int
    """Width of the class vectors that can take its classifier's place."""

    @abstractmethod
    def forward(self, features: Tensor, class_vectors: Tensor | None = None) -> Activations:
        """Activations of features ``(B, T, D)``.

        ``class_vectors`` ``(C + 1, width)`` are scored against the snippets in place of the own last layer.
        """

    @abstractmethod
    def losses(self, found: Activations, labels: Tensor, pairs: Tensor, progress: Tensor | float) -> dict[str, Tensor]:
        """The terms of the method's loss, each with its weight; their sum is trained.

        ``labels`` ``(B, C)`` are 0 or 1, ``pairs`` ``(P, 2)`` are places in the batch of two videos that share a
        class, ``progress`` in [0, 1] is the share of the training that is over.
        """
