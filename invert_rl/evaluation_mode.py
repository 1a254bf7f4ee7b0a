"""Forwards without dropout in the middle of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout off inside and restore the mode afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
