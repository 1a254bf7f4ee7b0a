"""The control: nothing to see, everything else as it is."""

from __future__ import annotations

import numpy as np
import torch

from invert_rl.video.blank import BlankFrameStore
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore


def test_a_blank_store_gives_grey_frames_of_the_same_shape_and_times(world, rows):
    settings = FrameSettings(min_pixels=56 * 56)
    plain, blank = (kind(world / "videos", settings) for kind in (FrameStore, BlankFrameStore))
    for ref in (VideoRef(rows[0].video), VideoRef(rows[0].video, *rows[0].window)):
        seen, unseen = plain.clip(ref), blank.clip(ref)
        assert seen.frames.float().std() > 1
        assert unseen.frames.shape == seen.frames.shape
        assert unseen.frames.dtype == torch.uint8
        assert len(unseen.frames.unique()) == 1
        assert np.array_equal(unseen.timestamps, seen.timestamps)
        assert (unseen.start, unseen.end) == (seen.start, seen.end)
