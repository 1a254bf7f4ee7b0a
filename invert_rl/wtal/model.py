"""The whole method: a localizer, the two semantic branches, and the distillation between their attentions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invert_rl.wtal.completeness import SemanticReconstruction
from invert_rl.wtal.localizer import Activations, Localizer
from invert_rl.wtal.losses import distillation_loss
from invert_rl.wtal.matching import SemanticMatching

PHASES = ("reconstructor", "completeness", "localizer")
"""The updates of one iteration in their order; each trains parameters of its own [R train.py]."""


@contextmanager
def as_teacher(module: nn.Module) -> Iterator[None]:
    """No gradient and no dropout: half of the attention's logits would otherwise be 0 where it is released [C]."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)


@dataclass(frozen=True)
class SemanticWeights:
    """Weights of the branches' losses. The values are the paper's [S]; what each one weighs, it does not say."""

    lambda1: float = 1.5
    """Distillation, in both directions [I: 1.5 stands at that place in the ancestor]."""
    lambda2: float = 1.5
    """Alignment of foreground and text in L_KSM [C]."""
    mu1: float = 1.0
    """L_ivc in L_CSR [I]."""
    distill: bool = True
    """Whether the attentions learn from each other."""


class SemanticLocalizer(nn.Module):
    """MLLM4WTAL: ``L_KSM = L_base + lambda1 MSE(A_K, sg A_R) + lambda2 L_align``,
    ``L_CSR = mu1 L_ivc + lambda1 MSE(A_R, sg A_K)`` and ``L_rec`` for the reconstructor.

    Without matching and reconstruction it is the base alone; every branch can be left out.
    """

    def __init__(
        self,
        base: Localizer,
        matching: SemanticMatching | None = None,
        reconstruction: SemanticReconstruction | None = None,
        weights: SemanticWeights = SemanticWeights(),
    ) -> None:
        super().__init__()
        self.base, self.matching, self.reconstruction = base, matching, reconstruction
        self.weights = weights

    @property
    def phases(self) -> tuple[str, ...]:
        """The updates that an iteration of this model has."""
        return PHASES if self.reconstruction is not None else PHASES[-1:]

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """The parameters that a phase trains; the phases share none."""
        branch = self.reconstruction
        if phase == "localizer":
            modules: list[nn.Module] = [self.base] + ([] if self.matching is None else [self.matching])
        elif branch is None:
            modules = []
        else:
            modules = [branch.reconstructor if phase == "reconstructor" else branch.attention]
        return [parameter for module in modules for parameter in module.parameters()]

    def activations(self, features: Tensor) -> Activations:
        """What is found in features ``(B, T, D)``; the reconstruction has no part in it, as in the ancestor [R]."""
        return self.base(features, None if self.matching is None else self.matching.class_vectors())

    def forward(
        self,
        features: Tensor,
        labels: Tensor,
        pairs: Tensor,
        progress: Tensor,
        words: Tensor | None = None,
        masked: Tensor | None = None,
        phase: str = "localizer",
    ) -> dict[str, Tensor]:
        """Losses of one phase by name, their sum as ``loss``.

        ``features`` ``(B, T, D)``, ``labels`` ``(B, C)``, ``pairs`` ``(P, 2)``, ``progress`` in [0, 1], ``words`` and
        ``masked`` ``(B, L)`` (for the reconstruction). Raises `ValueError` for a phase that the model does not have.
        """
        if phase not in self.phases:
            raise ValueError(f"phase must be one of {self.phases}, not {phase!r}")
        branch = self.reconstruction
        if phase == "localizer" or branch is None:
            losses = self._localizer_losses(features, labels, pairs, progress)
        elif words is None or masked is None:
            raise ValueError(f"phase {phase!r} needs words and masked")
        elif phase == "reconstructor":
            losses = {"reconstruction": branch.reconstruction_loss(features, words, masked)}
        else:
            parts, attention = branch.completeness_losses(features, words, masked)
            losses = {name: self.weights.mu1 * part for name, part in parts.items()}
            if self.weights.distill:
                with as_teacher(self.base):
                    teacher = self.base(features).attention
                losses["from_localizer"] = self.weights.lambda1 * distillation_loss(attention, teacher)
        return {"loss": sum(losses.values()), **losses}

    def _localizer_losses(self, features: Tensor, labels: Tensor, pairs: Tensor, progress: Tensor) -> dict[str, Tensor]:
        vectors = None if self.matching is None else self.matching.class_vectors()
        found = self.base(features, vectors)
        losses = self.base.losses(found, labels, pairs, progress)
        if self.matching is not None:
            losses["alignment"] = self.weights.lambda2 * self.matching.alignment_loss(found, vectors, labels)
        if self.reconstruction is not None and self.weights.distill:
            with as_teacher(self.reconstruction):
                teacher, _ = self.reconstruction.attend(features)
            losses["from_reconstruction"] = self.weights.lambda1 * distillation_loss(found.attention, teacher)
        return losses
