"""Decoded frames of a video or a part of it, with their true times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from invert_rl.video.settings import TEMPORAL_PATCH

TICKS = 1000
"""Ticks per second of the clock that `Clip.metadata` counts in."""


@dataclass
class Clip:
    """The frames a model sees of a video or of a part of it.

    Frames come out of a shared cache: treat them as read-only.
    """

    frames: torch.Tensor
    """uint8, (T, 3, H, W), RGB, T even."""
    timestamps: np.ndarray
    """float64, (T,), presentation times in seconds of the whole video, also for a part of it."""
    start: float
    """First second that the frames stand for."""
    end: float
    """Last second that the frames stand for."""
    path: str
    """Name of the source video."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Between processes the frames travel as an array: tensors would as shared memory, which may be scarce."""
        return _clip, (self.frames.numpy(), self.timestamps, self.start, self.end, self.path)

    @property
    def sampled_fps(self) -> float:
        """Frames per second: T / (end - start)."""
        return len(self.frames) / (self.end - self.start)

    def second_per_grid(self, temporal_patch_size: int = TEMPORAL_PATCH) -> float:
        """Seconds between two steps of the vision grid, Qwen2.5-VL's ``second_per_grid_ts``."""
        return temporal_patch_size / self.sampled_fps

    def metadata(self) -> dict[str, Any]:
        """The fields of transformers' `VideoMetadata`: ``processor(…, video_metadata=[clip.metadata()])``.

        The clock is a millisecond clock (``fps`` 1000), not the source's frame rate, so that ``frames_indices
        / fps`` are the true times for variable frame rates and for crops (Qwen3-VL writes them into the
        prompt), and T / (``total_num_frames`` / ``fps``) is `sampled_fps` (Qwen2.5-VL derives
        ``second_per_grid_ts`` from it). Call the processor with ``do_sample_frames=False``; for vLLM use
        `vllm_metadata`.
        """
        _, _, height, width = self.frames.shape
        covered = self.end - self.start
        return {
            "total_num_frames": max(1, round(covered * TICKS)),
            "fps": float(TICKS),
            "width": width,
            "height": height,
            "duration": covered,
            "frames_indices": [round(time * TICKS) for time in self.timestamps.tolist()],
        }

    def vllm_metadata(self) -> dict[str, Any]:
        """`metadata` with the key that tells vLLM not to sample the frames once more."""
        return {**self.metadata(), "do_sample_frames": False}


def _clip(frames: np.ndarray, *others: Any) -> Clip:
    return Clip(torch.from_numpy(frames), *others)
