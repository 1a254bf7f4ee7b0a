"""GPUs as their makers describe them: memory, bf16 speed and bandwidth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GPU:
    """Figures of the data sheet."""

    memory: float
    """GiB (what is sold as 80 GB holds 79.6)."""
    tflops: float
    """Dense bf16, 10¹² operations a second."""
    bandwidth: float
    """Of its memory, 10¹² bytes a second."""


GPUS = {
    "h100": GPU(79.6, 989, 3.35),
    "h200": GPU(140.4, 989, 4.8),
    "a100": GPU(80.0, 312, 2.04),
    "l40s": GPU(48.0, 362, 0.864),
    "rtx4090": GPU(24.0, 165, 1.01),
}
"""By name; SXM where there are several."""


def gpu_named(device: str) -> GPU:
    """The entry that a device's name, such as ``NVIDIA H200``, belongs to; an H100's speed for others."""
    plain = device.lower().replace(" ", "")
    return next((gpu for name, gpu in GPUS.items() if name in plain), GPUS["h100"])
