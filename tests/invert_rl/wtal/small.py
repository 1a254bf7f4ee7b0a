"""A small model and batch of random numbers, shared by the tests."""

from __future__ import annotations

from typing import Any

import torch

from invert_rl.wtal.completeness import SemanticReconstruction
from invert_rl.wtal.delu import Delu, DeluConfig, TwoStreamAttention
from invert_rl.wtal.matching import SemanticMatching
from invert_rl.wtal.model import SemanticLocalizer, SemanticWeights
from invert_rl.wtal.reconstructor import Reconstructor

CLASSES, RGB, FLOW, WIDTH, ROWS, WORDS = 3, 6, 4, 16, 12, 9
CONFIG = DeluConfig(CLASSES, RGB, FLOW, 8, WIDTH, dropout=0.3, gate_dropout=0.1)


def reconstructor(width: int = 16) -> Reconstructor:
    """A reconstructor of `WORDS` words and padding, without dropout."""
    torch.manual_seed(3)
    vectors = torch.randn(WORDS + 1, 5)
    return Reconstructor(vectors, RGB + FLOW, width, heads=2, layers=2, dropout=0.0)


def model(matching: bool = True, reconstruction: bool = True, **weights: Any) -> SemanticLocalizer:
    """A small model with the branches that are asked for."""
    torch.manual_seed(4)
    base = Delu(CONFIG)
    keys = SemanticMatching(torch.randn(CLASSES, 5), WIDTH, prompts=2, heads=2) if matching else None
    branch = None
    if reconstruction:
        branch = SemanticReconstruction(TwoStreamAttention(RGB, FLOW, 8, 0.1), reconstructor())
    return SemanticLocalizer(base, keys, branch, SemanticWeights(**weights))


def batch(size: int = 4) -> dict[str, torch.Tensor]:
    """Inputs of `SemanticLocalizer.forward`; neighbours 0 and 1 share class 0."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.zeros(size, CLASSES)
    labels[torch.arange(size), torch.arange(size) // 2 % CLASSES] = 1
    words = torch.randint(1, WORDS + 1, (size, 6), generator=generator)
    words[0, 4:] = 0
    masked = torch.zeros_like(words, dtype=torch.bool)
    masked[:, 1] = True
    return {
        "features": torch.randn(size, ROWS, RGB + FLOW, generator=generator),
        "labels": labels,
        "pairs": torch.tensor([[0, 1]] if size > 1 else [], dtype=torch.long).view(-1, 2),
        "progress": torch.tensor(0.3),
        "words": words,
        "masked": masked,
    }
