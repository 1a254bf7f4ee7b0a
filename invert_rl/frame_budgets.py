"""Frame budgets of single prompts, drawn from lists: a pure function of the seed, the round and the row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from invert_rl.schedule import FRAMES, Draw, generator
from invert_rl.tasks import TASKS
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings


@dataclass(frozen=True)
class FrameBudgets:
    """How many frames and pixels each training prompt may have, as ParaVT (arXiv 2605.20342) draws 4 to 64 frames.

    A policy that sees each video with few and with many frames learns to answer at any rate. All completions of a group
    and all iterations over a round have one draw; ranks and resumed runs cannot disagree, as nothing is kept.
    """

    seed: int = 0
    max_frames: Sequence[int] = ()
    """What ``max_frames`` is drawn from; empty: it is that of the settings."""
    total_pixels: Sequence[int] = ()
    """What ``total_pixels`` is drawn from, by itself."""

    def check(self, settings: FrameSettings) -> None:
        """Raise `ValueError` for a budget that cannot stand in ``settings``."""
        for name in ("max_frames", "total_pixels"):
            for value in getattr(self, name):
                try:
                    replace(settings, **{name: value})
                except ValueError as error:
                    raise ValueError(f"draw_{name}: {error}") from error

    def __call__(self, ref: VideoRef, draw: Draw) -> VideoRef:
        """``ref`` with the budgets of this draw: those of a task and row are the same all through a round."""
        if not self.max_frames and not self.total_pixels:
            return ref
        chance = generator(self.seed, FRAMES, draw.round, TASKS[draw.task].stream, draw.row).random(2)
        return replace(
            ref,
            max_frames=_at(self.max_frames, chance[0]),
            total_pixels=_at(self.total_pixels, chance[1]),
        )


def _at(values: Sequence[int], chance: float) -> int | None:
    return values[int(chance * len(values))] if values else None
