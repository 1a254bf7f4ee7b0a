"""Double precision throughout: transformers casts to fp32 inside norms, rotary positions and Gated DeltaNet."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cast to fp32 of the code under test is one to fp64."""
    to = torch.Tensor.to

    def to_double(self: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        return to(self, *(torch.float64 if arg is torch.float32 else arg for arg in args), **kwargs)

    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(torch.Tensor, "to", to_double)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(
        torch.nn.functional, "softmax", lambda x, *args, **kwargs: softmax(x, *args, **{**kwargs, "dtype": x.dtype})
    )
