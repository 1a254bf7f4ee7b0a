"""Whether a training video is in a test set: by its id, or by the content of its file."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.convert.grounding import video_stem

_CUT = re.compile(r"_\d+(?:\.\d+)?_\d+(?:\.\d+)?$|_\d+:\d\d:\d\d[:.]\d+_\d+:\d\d:\d\d[:.]\d+$")
"""Start and end of a cut, as QVHighlights, Clotho and Time-R1 write them behind the name."""
_OF_COPIES = re.compile(r"\.f\d+$|-cam-\d+$")
"""What downloaders leave of a stream's number, and a camera's number, which some copies of TACoS have."""


def video_id(name: str) -> str:
    """What two names of one video have in common: no folder, no ending, no cut, no ``v_`` before a YouTube id.

    ``a/v_BrgYIg6UXhU.mp4``, ``BrgYIg6UXhU_60.0_210.0.mkv`` and ``BrgYIg6UXhU.f399.mp4`` are all ``BrgYIg6UXhU``;
    ``s30-d52.avi`` and ``s30-d52-cam-002.mp4`` are one video of TACoS.
    """
    stem = _CUT.sub("", _OF_COPIES.sub("", video_stem(name)))
    return stem[2:] if re.fullmatch(r"v_[\w-]{11}", stem) else stem


@dataclass
class TestVideos:
    """The videos of the test sets, and which set each is from."""

    by_id: dict[str, str] = field(default_factory=dict)
    by_size: dict[int, list[tuple[Path, str]]] = field(default_factory=lambda: defaultdict(list))
    hashed: dict[str, int] = field(default_factory=dict)
    """Files of each set that could be looked at."""
    _hashes: dict[Path, str] = field(default_factory=dict)

    def add(self, test_set: str, videos: Mapping[str, Path | None]) -> None:
        """Note the ``videos`` of a test set: their names, and where each file would be (None: not known)."""
        self.hashed[test_set] = 0
        for name, path in videos.items():
            self.by_id.setdefault(video_id(name), test_set)
            if path is not None and path.is_file():
                self.by_size[path.stat().st_size].append((path, test_set))
                self.hashed[test_set] += 1

    def found(self, name: str, path: Path | None) -> str | None:
        """Why a video is one of a test set's; None if it is none, as far as can be seen.

        Only files of the same length are read: others differ.
        """
        identity = video_id(name)
        if identity in self.by_id:
            return f"video id {identity} is in {self.by_id[identity]}"
        if path is None or not path.is_file():
            return None
        for other, test_set in self.by_size.get(path.stat().st_size, ()):
            if self._hash(path) == self._hash(other):
                return f"the file is {other.name} of {test_set}, byte for byte"
        return None

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            with path.open("rb") as file:
                self._hashes[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._hashes[path]


def located_videos(names: Iterable[str], root: Path | None) -> dict[str, Path | None]:
    """Where each video would be below ``root``."""
    return {name: None if root is None else root / name for name in names}
