"""Videos as frames for end-to-end training: rows are times, and pictures are decoded when a window is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.errors import DataError
from invert_rl.tal.data import Video
from invert_rl.tal.grid import Grid
from invert_rl.video.decode import Deadline, decode_at, probe
from invert_rl.video.sampling import nearest


@dataclass(frozen=True)
class FrameReader:
    """Decodes square frames of the videos in a folder."""

    root: Path
    ending: str
    size: int
    """Height and width, pixels."""
    timeout: float = 600.0
    """Seconds for one window."""

    def read(self, video: str, times: Tensor) -> Tensor:
        """The frames nearest to ``times`` ``(T,)`` in seconds, ``(T, 3, size, size)`` uint8.

        Raises `VideoError` with the video's name where it cannot be decoded.
        """
        name = f"{video}{self.ending}"
        deadline = Deadline(name, self.timeout)
        info = probe(self.root / name, deadline, name)
        places = nearest(info.times, times.double().numpy())
        pictures, _ = decode_at(self.root / name, info, sorted(set(places.tolist())), self._resized, False, deadline)
        return torch.stack([pictures[place] for place in places.tolist()])

    def fill(self, videos: Sequence[Video], rows: int) -> Tensor:
        """Frames of windows of `time_videos`, ``(B, rows, 3, size, size)`` uint8, black where a window has ended."""
        frames = torch.zeros(len(videos), rows, 3, self.size, self.size, dtype=torch.uint8)
        for place, video in enumerate(videos):
            frames[place, : len(video.features)] = self.read(video.video, video.features[:][:, 0])
        return frames

    def _resized(self, picture: np.ndarray) -> Tensor:
        from torchvision.transforms.functional import resize

        image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
        return resize(image, [self.size, self.size], antialias=True)


def time_videos(
    database: dict[str, Any], subset: str, classes: Sequence[str], frame_rate: float, size: int | None = None
) -> list[Video]:
    """Videos of ``subset`` whose one channel is the time of each row in seconds, ``frame_rate`` rows a second.

    ``size`` spreads so many rows over every video instead. Raises `DataError` for a subset without an annotated video.
    """
    ids = {name: index for index, name in enumerate(classes)}
    videos = []
    for name, record in database.items():
        if str(record.get("subset")).casefold() != subset.casefold():
            continue
        duration = float(record["duration"])
        rate = frame_rate if size is None else size / duration
        rows = max(1, int(duration * rate)) if size is None else size
        grid = Grid(rate, 1.0, 1.0)  # a row stands for 1 / rate seconds and lies at their middle
        times = torch.tensor([entry["segment"] for entry in record["annotations"]], dtype=torch.float64).view(-1, 2)
        labels = torch.tensor([ids[entry["label"]] for entry in record["annotations"]], dtype=torch.long)
        places = grid.seconds(torch.arange(rows, dtype=torch.float64)).float()[:, None]
        videos.append(Video(name, duration, grid, places, grid.row(times).float(), labels))
    if not any(len(video.labels) for video in videos):
        raise DataError(f"the annotations have no annotated video in subset {subset!r}")
    return videos
