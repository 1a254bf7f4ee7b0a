"""Does the shared forward give what the plain one gives, on this model and this machine?"""

from __future__ import annotations

import torch

CHECKED_ROWS = 2
"""Completions of one prompt that are scored both ways."""

TOLERANCE = {"fp32": 1e-4, "half": 0.1}
"""Largest mean difference of log-probabilities that passes. Rounding gives about 1e-6 in fp32 and 0.01 in bf16."""


def tolerance(dtype: torch.dtype, mixed_precision: str) -> float:
    """The tolerance for weights of ``dtype`` under accelerate's ``mixed_precision``; TF32 counts as half."""
    exact = dtype == torch.float32 and mixed_precision == "no" and not torch.backends.cuda.matmul.allow_tf32
    return TOLERANCE["fp32" if exact else "half"]


def mean_difference(plain: torch.Tensor, shared: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference over the tokens in ``mask``: infinite where one is not finite, 0 without tokens."""
    difference = (plain.float() - shared.float()).abs()[mask.bool()]
    return difference.mean().nan_to_num(nan=torch.inf, posinf=torch.inf) if difference.numel() else difference.sum()
