"""Videos as frames for end-to-end training: rows are times, and pictures are decoded when a window is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import resize

from data_prep.decode import Deadline, decode_at, list_frames
from data_prep.errors import DataError, VideoError
from data_prep.video_file import resolve
from data_prep.workers import TIMEOUT_SECONDS, in_worker
from invert_rl.tal.data import Video
from invert_rl.tal.grid import Grid
from invert_rl.video.load import decode_apart
from invert_rl.video.sampling import nearest


@dataclass(frozen=True)
class FrameReader:
    """Decodes square frames of the videos in a folder."""

    root: Path
    ending: str
    size: int
    """Height and width, pixels."""
    timeout: float = TIMEOUT_SECONDS
    """Seconds for one window."""

    def read(self, video: str, times: Tensor) -> Tensor:
        """The frames nearest to ``times`` ``(T,)`` in seconds, ``(T, 3, size, size)`` uint8.

        Raises `VideoError` with the video's name where it cannot be decoded.
        """
        name = f"{video}{self.ending}"
        return torch.from_numpy(decode_apart(_read, (self, name, times.double().numpy()), name, self.timeout))

    def fill(self, videos: Sequence[Video], rows: int) -> Tensor:
        """Frames of windows of `time_videos`, ``(B, rows, 3, size, size)`` uint8, black where a window has ended."""
        frames = torch.zeros(len(videos), rows, 3, self.size, self.size, dtype=torch.uint8)
        for place, video in enumerate(videos):
            frames[place, : len(video.features)] = self.read(video.video, video.features[:][:, 0])
        return frames

    def resized(self, picture: np.ndarray) -> Tensor:
        """A picture (H, W, 3) as a frame (3, size, size), uint8."""
        image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
        return resize(image, [self.size, self.size], antialias=True)


def _read(item: tuple[FrameReader, str, np.ndarray]) -> np.ndarray:
    """Called in a worker process: the frames of `FrameReader.read`."""
    reader, name, times = item
    if in_worker():
        torch.set_num_threads(1)
    path = resolve(reader.root, name)
    deadline = Deadline(name, reader.timeout)
    info = list_frames(path, deadline, name)
    for _ in range(3):
        places = nearest(info.times, times)
        pictures, found = decode_at(path, info, sorted(set(places.tolist())), reader.resized, False, deadline)
        if found is info:
            return torch.stack([pictures[place] for place in places.tolist()]).numpy()
        info = found
    raise VideoError(name, "decoding gives other frames each time; re-encode the file with FFmpeg")


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
