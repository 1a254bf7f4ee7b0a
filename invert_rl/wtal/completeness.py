"""Complete semantic reconstruction: an attention that must hold what the complete description tells, and no less."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from invert_rl.wtal.delu import TwoStreamAttention, initialise
from invert_rl.wtal.reconstructor import Reconstructor, word_errors

HARD_MARGIN, EASY_MARGIN = 0.1, 0.15
"""Least advantage of the attention over all snippets, and over the complement [R]."""


class SemanticReconstruction(nn.Module):
    """The branch's own attention and the reconstructor that it feeds [S: semantic reconstruction; R VLC]."""

    def __init__(self, attention: TwoStreamAttention, reconstructor: Reconstructor, count_all: bool = True) -> None:
        """``count_all``: errors count on all words, each of which sees only earlier words [R]; else on hidden ones."""
        super().__init__()
        self.attention = attention
        self.reconstructor = reconstructor
        self.count_all = count_all
        self.attention.apply(initialise)

    def attend(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Attention ``(B, T)`` and gated features ``(B, T, D)`` of features ``(B, T, D)``."""
        rgb, flow, gated = self.attention(features)
        return (rgb + flow) / 2, gated

    def reconstruction_loss(self, features: Tensor, words: Tensor, masked: Tensor) -> Tensor:
        """``CE(A) + CE(all snippets)`` with the attention held fixed; trains the reconstructor [R rec_loss]."""
        with torch.no_grad():
            attention, gated = self.attend(features)
        counted = None if self.count_all else masked
        errors = [
            word_errors(self.reconstructor(gated, use, words, masked), words, counted)
            for use in (attention, torch.ones_like(attention))
        ]
        return sum(error.mean() for error in errors)

    @torch.no_grad()
    def compare(self, features: Tensor, words: Tensor, masked: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of the words ``(B,)`` from the snippets of the attention, of all, of its complement, of none.

        The first has to be the least: else the attention holds nothing that reconstruction needs.
        """
        attention, gated = self.attend(features)
        uses = {
            "attention": attention,
            "all": torch.ones_like(attention),
            "complement": 1 - attention,
            "none": torch.zeros_like(attention),
        }
        counted = None if self.count_all else masked
        return {
            name: word_errors(self.reconstructor(gated, use, words, masked), words, counted)
            for name, use in uses.items()
        }

    def completeness_losses(self, features: Tensor, words: Tensor, masked: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The two hinges of L_ivc and the attention ``(B, T)``; trains the attention, the reconstructor is held fixed.

        ``hard``: the attention tells the words better than all snippets do, by 0.1; ``easy``: better than the
        complement 1 - A does, by 0.15 [R ivc_loss].
        """
        attention, gated = self.attend(features)
        counted = None if self.count_all else masked
        fixed = {name: value.detach() for name, value in self.reconstructor.state_dict(keep_vars=True).items()}

        def errors(use: Tensor) -> Tensor:
            return word_errors(functional_call(self.reconstructor, fixed, (gated, use, words, masked)), words, counted)

        own, whole, rest = errors(attention), errors(torch.ones_like(attention)), errors(1 - attention)
        losses = {"hard": F.relu(own - whole + HARD_MARGIN).mean(), "easy": F.relu(own - rest + EASY_MARGIN).mean()}
        return losses, attention
