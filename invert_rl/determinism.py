"""Equal runs on a CPU: without this, two threads add some gradients in whichever order they come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic_on_cpu(device: torch.device) -> Iterator[None]:
    """Run what is inside with PyTorch's deterministic kernels if ``device`` is a CPU.

    A resumed run is then bit-equal to one that was never stopped. The kernels cost next to nothing on a CPU; on a
    GPU some are slow or missing, so that there it is the user's choice (``full_determinism``). Operations without a
    deterministic kernel warn.
    """
    if device.type != "cpu":
        yield
        return
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = filled
