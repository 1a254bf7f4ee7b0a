"""From a reference to the frames a model sees of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from data_prep.errors import DataError
from data_prep.rows import check_video_name
from invert_rl.video.clip import Clip
from invert_rl.video.decode import Deadline, decode_at, probe
from invert_rl.video.errors import VideoError
from invert_rl.video.ref import VideoRef
from invert_rl.video.sampling import choose_frames, frame_size, video_of, window_of
from invert_rl.video.settings import FrameSettings


def resolve(root: str | os.PathLike[str], name: str) -> Path:
    """The file that a video name means inside the folder ``root`` (which may itself be a link).

    Raises `VideoError` for a name that leaves the folder, by itself or through a symbolic link.
    """
    try:
        check_video_name(name, name)
    except DataError as error:
        raise VideoError(name, "the name must be a relative path inside the video folder") from error
    folder = Path(root).resolve()
    try:
        path = (folder / name).resolve()
    except (OSError, RuntimeError) as error:
        raise VideoError(name, f"the name cannot be followed ({error})") from error
    if not path.is_relative_to(folder):
        raise VideoError(name, "a symbolic link leads out of the video folder; copy the file into it")
    return path


def load_clip(
    ref: VideoRef,
    settings: FrameSettings,
    root: str | os.PathLike[str],
    timeout: float | None = 60.0,
    size: tuple[int, int] | None = None,
) -> Clip:
    """Decode the frames that a model sees of ``ref``, a video in the folder ``root``.

    ``timeout`` limits it all, in seconds, and is looked at between frames. ``size`` (height, width) replaces
    the size that the pixel budget gives. A whole video is decoded to its end, so
    that damage anywhere is an error and never a shorter video; of a part, and of a clip of the file, only that
    is decoded. Times are the video's, which start at 0 where its clip does. Raises `VideoError` with the video's
    name and the reason.
    """
    path = resolve(root, ref.path)
    deadline = Deadline(ref.path, timeout)
    info = probe(path, deadline, ref.path)
    for _ in range(3):
        origin, video_end = video_of(ref, info.duration)
        start, end = window_of(ref, video_end - origin)
        times = info.times - origin
        indices = choose_frames(times, start, end, settings, ref.path)
        resize = _Resize(len(indices), settings, ref.path, size)
        whole = start == 0 and end == info.duration
        pictures, found = decode_at(path, info, indices.tolist(), resize, whole, deadline)
        if found is info:
            frames = torch.stack([pictures[index] for index in indices.tolist()])
            return Clip(frames, times[indices], start, end, ref.path)
        info = found
    raise VideoError(ref.path, "decoding gives other frames each time; re-encode the file with FFmpeg")


class _Resize:
    """Picture (H, W, 3) uint8 to tensor (3, h, w) uint8, all of the size that the first picture leads to."""

    def __init__(self, count: int, settings: FrameSettings, path: str, size: tuple[int, int] | None) -> None:
        self.count = count
        self.settings = settings
        self.path = path
        self.size = size

    def __call__(self, picture: np.ndarray) -> torch.Tensor:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.functional import resize

        if self.size is None:
            height, width, _ = picture.shape
            self.size = frame_size(height, width, self.count, self.settings, self.path)
        image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
        return resize(image, list(self.size), interpolation=InterpolationMode.BICUBIC, antialias=True)
