"""From a reference to the frames a model sees of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from data_prep.decode import Deadline, decode_at
from data_prep.errors import CRASHED, TIMEOUT, VideoError
from data_prep.video_file import resolve
from data_prep.workers import TIMEOUT_SECONDS, Failure, WorkerStartError, call_apart, in_worker
from invert_rl.video.clip import Clip
from invert_rl.video.index import PacketIndex
from invert_rl.video.ref import VideoRef
from invert_rl.video.sampling import choose_frames, frame_size, video_of, window_of
from invert_rl.video.settings import FrameSettings

logger = logging.getLogger(__name__)

GRACE_SECONDS = 60.0
"""What a process may take beyond a video's own time limit before it is killed: reading, hashing, sending."""
TRIES = 2
"""How often a video is tried whose process dies: once more, as it may have been killed for another reason."""

INDEX = PacketIndex()
"""Of this process."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def load_clip(
    ref: VideoRef,
    settings: FrameSettings,
    root: str | os.PathLike[str],
    timeout: float | None = TIMEOUT_SECONDS,
    size: tuple[int, int] | None = None,
) -> Clip:
    """`decode_clip` in a process of its own: a decoder that crashes or hangs is a `VideoError` and no more."""
    return decode_apart(_decode_clip, (ref, settings, root, timeout, size), ref.path, timeout)


def decode_apart(function: Callable[[Item], Result], item: Item, path: str, timeout: float | None) -> Result:
    """``function(item)``, which decodes the video named ``path``, by `call_apart`; in a worker process right here.

    A process that dies is tried once more, one that is not back ``timeout`` seconds and a minute later is killed:
    both are a `VideoError`. Where no process can be started the work is done here, with a warning.
    """
    if in_worker():
        return function(item)
    limit = None if timeout is None else timeout + GRACE_SECONDS
    try:
        return outlived(lambda: call_apart(function, item, limit), path)
    except WorkerStartError as error:
        logger.warning("%s; decoding in the main process", error)
        return function(item)


def outlived(call: Callable[[], Result | Failure], path: str) -> Result:
    """What ``call`` gives at last; its `Failure` is tried again where the process died, and then a `VideoError`."""
    reason = ""
    for _ in range(TRIES):
        answer = call()
        if not isinstance(answer, Failure):
            return answer
        reason = answer.reason
        if answer.timed_out:
            raise VideoError(path, f"decoding: {reason}; raise the time limit for a video or leave it out", TIMEOUT)
        logger.warning("%s: a worker process that decoded it is gone: %s", path, reason)
    raise VideoError(path, f"decoding: {reason}", CRASHED)


def decode_clip(
    ref: VideoRef,
    settings: FrameSettings,
    root: str | os.PathLike[str],
    timeout: float | None = TIMEOUT_SECONDS,
    size: tuple[int, int] | None = None,
) -> Clip:
    """Decode the frames that a model sees of ``ref``, a video in the folder ``root``, in this process.

    ``timeout`` limits it all, in seconds, and is looked at between frames. ``size`` (height, width) replaces
    the size that the pixel budget gives. A whole video is decoded to its end, so
    that damage anywhere is an error and never a shorter video; of a part, and of a clip of the file, only that
    is decoded. Times are the video's, which start at 0 where its clip does. Raises `VideoError` with the video's
    name and the reason.
    """
    path, settings = resolve(root, ref.path), ref.settings(settings)
    deadline = Deadline(ref.path, timeout)
    info = INDEX.info(path, deadline, ref.path)
    for _ in range(3):
        origin, video_end = video_of(ref, info.duration)
        start, end = window_of(ref, video_end - origin)
        times = info.times - origin
        indices = choose_frames(times, start, end, settings, ref.path)
        resized = _Resize(len(indices), settings, ref.path, size)
        whole = start == 0 and end == info.duration
        pictures, found = decode_at(path, info, indices.tolist(), resized, whole, deadline)
        if found is info:
            frames = torch.stack([pictures[index] for index in indices.tolist()])
            return Clip(frames, times[indices], start, end, ref.path)
        info = found
        INDEX.keep(path, info)
    raise VideoError(ref.path, "decoding gives other frames each time; re-encode the file with FFmpeg")


def _decode_clip(
    arguments: tuple[VideoRef, FrameSettings, str | os.PathLike[str], float | None, tuple[int, int] | None],
) -> Clip:
    if in_worker():
        torch.set_num_threads(1)
    return decode_clip(*arguments)


class _Resize:
    """Picture (H, W, 3) uint8 to tensor (3, h, w) uint8, all of the size that the first picture leads to."""

    def __init__(self, count: int, settings: FrameSettings, path: str, size: tuple[int, int] | None) -> None:
        self.count = count
        self.settings = settings
        self.path = path
        self.size = size

    def __call__(self, picture: np.ndarray) -> torch.Tensor:
        if self.size is None:
            height, width, _ = picture.shape
            self.size = frame_size(height, width, self.count, self.settings, self.path)
        image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
        return resize(image, list(self.size), interpolation=InterpolationMode.BICUBIC, antialias=True)
