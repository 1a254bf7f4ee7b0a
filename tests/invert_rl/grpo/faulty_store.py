"""A frame store that fails on one rank only. A module of its own, so that worker processes can import it."""

from __future__ import annotations

import os
import signal
import time

from invert_rl.video.clip import Clip
from invert_rl.video.errors import VideoError
from invert_rl.video.ref import VideoRef
from invert_rl.video.store import FrameStore


class FaultyStore(FrameStore):
    """Fails in the way of ``fault`` for the video ``broken``; ``fault`` is None on the ranks that are to be well."""

    fault: str | None = None
    broken = ""

    def clip(self, ref: VideoRef) -> Clip:
        if ref.path == self.broken:
            if self.fault == "video":
                raise VideoError(ref.path, "the disk of this rank is broken")
            if self.fault == "hang":
                time.sleep(3600)
            if self.fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does to a process that takes too much memory
        return super().clip(ref)
