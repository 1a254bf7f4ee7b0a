"""The list of videos that a run leaves out, with the reasons."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from data_prep.files import atomic_write, read_object
from invert_rl.video.errors import VideoError

logger = logging.getLogger(__name__)


QUARANTINE = "quarantine.json"
"""The file of a run folder, and of a checkpoint, that holds the list."""


class Quarantine:
    """Collects broken videos by name, once each, and says so in the log the first time."""

    file: Path | None = None
    """Where the list is written each time it grows; None: nowhere."""

    def __init__(self) -> None:
        self.videos: dict[str, str] = {}
        """Reason by video name, in the order of discovery."""

    def add(self, error: VideoError) -> None:
        """Note the video of ``error``; a video that is already noted keeps its first reason."""
        if error.path in self.videos:
            return
        self.videos[error.path] = error.reason
        logger.warning("video left out: %s", error)
        if self.file is not None:
            self.write(self.file)

    def update(self, videos: Mapping[str, str]) -> None:
        """Take over the reasons by name of another list; a video that is already noted keeps its first reason."""
        new = {name: reason for name, reason in videos.items() if name not in self.videos}
        self.videos |= new
        if new and self.file is not None:
            self.write(self.file)

    def read(self, path: str | os.PathLike[str]) -> None:
        """Take over what `write` has written; a list that is not there is an empty one, a damaged one a `DataError`."""
        if os.path.isfile(path):
            self.update({name: str(reason) for name, reason in read_object(path).items()})

    def __contains__(self, path: object) -> bool:
        return path in self.videos

    def __len__(self) -> int:
        return len(self.videos)

    def summary(self) -> str:
        """One line: how many videos are left out and how often for which reason; empty if none."""
        if not self.videos:
            return ""
        reasons = Counter(self.videos.values()).most_common()
        counts = "; ".join(f"{count} x {reason}" for reason, count in reasons)
        return f"{len(self.videos)} video{'s' * (len(self.videos) > 1)} left out: {counts}"

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write ``{name: reason}`` as JSON, all of the file or none of it."""
        with atomic_write(path) as out:
            json.dump(self.videos, out, ensure_ascii=False, indent=1)
            out.write("\n")
