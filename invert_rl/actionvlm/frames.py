"""Videos as frames for end-to-end training: rows are times, and pictures are decoded when a window is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import ColorJitter, RandAugment, RandomResizedCrop
from torchvision.transforms.functional import resized_crop

from data_prep.decode import Deadline, decode_at, list_frames
from data_prep.errors import DataError, VideoError
from data_prep.video_file import resolve
from data_prep.workers import TIMEOUT_SECONDS, in_worker
from invert_rl.tal.data import Video
from invert_rl.tal.grid import Grid
from invert_rl.video.load import decode_apart
from invert_rl.video.ref import VideoRef
from invert_rl.video.sampling import nearest
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""Of random crops: share of the picture, and width over height [R]."""
FLIP = 0.5
"""Share of windows that are mirrored [R]."""
RANDAUGMENT = {"num_ops": 4, "magnitude": 7}
"""As the released code has it; its operations are imgaug's, ours torchvision's [C]."""
COLOUR = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.1}
"""Jitter of all windows [R]."""


STORED = 182 / 160
"""Height of stored pictures over that of frames, so that random crops have something to choose [R OpenTAD configs]."""


@dataclass(frozen=True)
class FrameReader:
    """Square frames of the videos in a folder, decoded for each window, or whole videos once with a store."""

    root: Path
    ending: str
    size: int
    """Height and width, pixels."""
    timeout: float = TIMEOUT_SECONDS
    """Seconds for one window."""
    store: FrameStore | None = None
    """Keeps whole videos as in `stored_frames`."""

    def read(self, video: str, times: Tensor, seed: int | None = None) -> Tensor:
        """The frames nearest to ``times`` ``(T,)`` in seconds, ``(T, 3, size, size)`` uint8.

        Without ``seed`` the square in the middle of each picture. With one a random crop, mirrored or not, with other
        colours, the same for all frames: the released code's training [R]. Raises `VideoError` with the video's name
        where it cannot be decoded.
        """
        name = self.name(video)
        if self.store is not None:
            whole = self.store.clip(VideoRef(name))
            return window_frames(whole.frames[nearest(whole.timestamps, times.double().numpy())], self.size, seed)
        item = (self, name, times.double().numpy(), seed)
        return torch.from_numpy(decode_apart(_read, item, name, self.timeout))

    def name(self, video: str) -> str:
        """The file of a video, within the folder."""
        return f"{video}{self.ending}"

    def missing(self, videos: Sequence[Video]) -> list[str]:
        """Those of ``videos`` that have no file."""
        return [video.video for video in videos if not resolve(self.root, self.name(video.video)).is_file()]


def crop_of(height: int, width: int, seed: int | None) -> tuple[int, int, int, int]:
    """Top, left, height and width of what is seen of pictures: the middle square, or at random."""
    if seed is None:
        side = min(height, width)
        return (height - side) // 2, (width - side) // 2, side, side
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = torch.empty(1, height, width)
        top, left, high, wide = RandomResizedCrop.get_params(shape, list(AREA), list(RATIO))
    return int(top), int(left), int(high), int(wide)


def recoloured(frames: Tensor, seed: int) -> Tensor:
    """Frames ``(T, 3, H, W)`` uint8, all mirrored or none, all with the same other colours and small turns."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        frames = frames.flip(-1) if float(torch.rand(())) < FLIP else frames
        return ColorJitter(**COLOUR)(RandAugment(**RANDAUGMENT)(frames))


def stored_frames(root: Path, directory: Path, rate: float, size: int) -> FrameStore:
    """A store of whole videos for ``rate`` rows a second and frames of ``size`` pixels, kept in ``directory``.

    Pictures are smaller than the file's, `STORED` of ``size`` high at 16:9, so that crops are of them.
    """
    return FrameStore(root, FrameSettings.every_row(rate, round(STORED * size)), directory=directory)


def window_frames(pictures: Tensor, size: int, seed: int | None) -> Tensor:
    """Square frames ``(T, 3, size, size)`` of pictures ``(T, 3, H, W)`` uint8, as `FrameReader.read` has them."""
    crop = crop_of(pictures.shape[2], pictures.shape[3], seed)
    frames = resized_crop(pictures, *crop, [size, size], antialias=True)
    return frames if seed is None else recoloured(frames, seed)


def _read(item: tuple[FrameReader, str, np.ndarray, int | None]) -> np.ndarray:
    """Called in a worker process: the frames of `FrameReader.read`."""
    reader, name, times, seed = item
    if in_worker():
        torch.set_num_threads(1)
    path = resolve(reader.root, name)
    deadline = Deadline(name, reader.timeout)
    info = list_frames(path, deadline, name)

    def square(picture: np.ndarray) -> Tensor:
        crop = crop_of(picture.shape[0], picture.shape[1], seed)
        image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
        return resized_crop(image, *crop, [reader.size, reader.size], antialias=True)

    for _ in range(3):
        places = nearest(info.times, times)
        pictures, found = decode_at(path, info, sorted(set(places.tolist())), square, False, deadline)
        if found is info:
            frames = torch.stack([pictures[place] for place in places.tolist()])
            return (frames if seed is None else recoloured(frames, seed)).numpy()
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
