"""A control: videos with their lengths and times, but without anything to see."""

from __future__ import annotations

from dataclasses import replace

import torch

from invert_rl.video.clip import Clip
from invert_rl.video.ref import VideoRef
from invert_rl.video.store import FrameStore

GREY = 128
"""Value of every pixel."""


class BlankFrameStore(FrameStore):
    """A `FrameStore` whose frames are all grey.

    A model trained on it can use the text, the length of the video and, in the inverted tasks, that of the segment;
    rewards above what these allow would mean that something else gives the answer away.
    """

    def clip(self, ref: VideoRef) -> Clip:
        """The clip of `FrameStore.clip`, grey; raises `VideoError` as there."""
        clip = super().clip(ref)
        return replace(clip, frames=torch.full_like(clip.frames, GREY))
