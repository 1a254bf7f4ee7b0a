"""What a run leaves out: parts of videos, and videos of which no part can be used, by all of its processes."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from pathlib import Path

from data_prep.errors import DataError
from data_prep.files import decode_json
from invert_rl.evaluation.parts import cut_last_line
from invert_rl.video.errors import VideoError
from invert_rl.video.quarantine import Quarantine
from invert_rl.video.ref import VideoRef

logger = logging.getLogger(__name__)

STRIKES = 3
"""A video is left out when this many of its parts could not be used and none could: an hour of kitchen has hundreds."""


class LeftOut(Quarantine):
    """A `Quarantine` of parts of videos, once each.

    Kitchens are filmed for an hour: one part that takes too long or is damaged says nothing of the others. With a
    ``log`` every process of a run (ranks and their workers) appends what it finds, and `write` has it all.
    """

    def __init__(self, log: Path | None = None) -> None:
        super().__init__()
        self.log = log
        if log is not None:
            cut_last_line(log)  # what a kill can leave
        self._failed: Counter[str] = Counter()
        self._good: set[str] = set()

    def reason(self, ref: VideoRef) -> str | None:
        """Why a part of a video is left out, or None."""
        return self.videos.get(ref.path) or self.videos.get(name_of(ref))

    def fail(self, ref: VideoRef, error: DataError) -> None:
        """Note that a part of a video cannot be used; the video itself if none of several parts could be."""
        reason = error.reason if isinstance(error, VideoError) else str(error)
        if name_of(ref) not in self.videos:
            self._note(name_of(ref), reason)
            self._failed[ref.path] += 1
        if self._failed[ref.path] == STRIKES and ref.path not in self._good and isinstance(error, VideoError):
            self._note(ref.path, f"none of {STRIKES} parts can be used, the last because: {reason}")

    def good(self, ref: VideoRef) -> None:
        """Note that a part of a video could be used."""
        self._good.add(ref.path)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write ``{name: reason}`` of all processes as JSON, all of the file or none of it."""
        if self.log is not None and self.log.is_file():
            for number, line in enumerate(self.log.read_text(encoding="utf-8").splitlines(), start=1):
                name, reason = decode_json(line, str(self.log), number)
                self.videos.setdefault(name, reason)
        super().write(path)

    def _note(self, name: str, reason: str) -> None:
        if name in self.videos:
            return
        self.videos[name] = reason
        logger.warning("left out: %s: %s", name, reason)
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps([name, reason], ensure_ascii=False) + "\n"
            with self.log.open("a", encoding="utf-8") as out:  # one short write: lines of processes do not mix
                out.write(line)


def name_of(ref: VideoRef) -> str:
    """A part of a video in messages, seconds."""
    return ref.path if ref.start is None else f"{ref.path} [{ref.start:.2f}, {ref.end:.2f}]"
