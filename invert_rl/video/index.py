"""What the packets of video files say, read once a process and kept: an hour of kitchen has hundreds of actions."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path

from data_prep.decode import Deadline, VideoInfo, list_frames

KEPT = 64
"""Files; a file of an hour at 60 frames a second takes 1.7 MB."""


class PacketIndex:
    """The `VideoInfo` of files, by path, size and time of change; those not used for longest are forgotten."""

    def __init__(self, kept: int = KEPT) -> None:
        self.kept = kept
        self._found: OrderedDict[tuple[str, int, int], VideoInfo] = OrderedDict()
        self._lock = threading.Lock()

    def info(self, path: Path, deadline: Deadline, name: str) -> VideoInfo:
        """As `list_frames`, which is asked only for a file that is new or has changed; raises `VideoError` like it."""
        if path.is_file():
            key = _key(path)
            with self._lock:
                if key in self._found:
                    self._found.move_to_end(key)
                    return self._found[key]
        info = list_frames(path, deadline, name)
        self.keep(path, info)
        return info

    def keep(self, path: Path, info: VideoInfo) -> None:
        """Remember what decoding has found out about a file since."""
        with self._lock:
            self._found[_key(path)] = info
            while len(self._found) > self.kept:
                self._found.popitem(last=False)


def _key(path: Path) -> tuple[str, int, int]:
    state = os.stat(path)
    return str(path), state.st_size, state.st_mtime_ns
