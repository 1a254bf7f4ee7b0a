"""The frames of a run's videos: decoded once, kept in memory and on disk, parts cut out of the whole."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import VideoError
from data_prep.video_file import look_at, resolve
from data_prep.workers import TIMEOUT_SECONDS
from invert_rl.video.clip import Clip
from invert_rl.video.disk import Source, encode_entry, entry_path, read_entry, writing
from invert_rl.video.load import decode_clip, load_clip
from invert_rl.video.ref import VideoRef
from invert_rl.video.sampling import frame_count, window_of
from invert_rl.video.settings import TEMPORAL_PATCH, FrameSettings

logger = logging.getLogger(__name__)


class FrameStore:
    """Frames by reference: `clip` decodes a video the first time and remembers its frames.

    A part of a video is a run of the whole video's frames wherever these are dense enough for the part's own
    sampling rule (``fps``, ``min_frames``), so that it has their pixels, their even spacing and their true
    times, as in the paper's code; a part too short for that, or of a video so long that ``max_frames`` thins
    it out, is decoded by itself at the whole video's frame size. Where a reference's ``clip`` says that the video
    is only a part of its file, nothing else of the file is sampled, decoded or kept. Clips are shared: treat
    their frames as read-only. A store can be sent to worker processes; each then has a memory of its own.

    With a ``directory`` frames are also kept on disk, in a form that several runs and processes can share. A
    video whose file has changed since then is decoded again; one that changes while the store is in use, so that some
    answers would be to another video, is an error from then on. Where nothing can be written (full disk, no
    permission) the store says so in the log once, keeps the error in ``write_error`` and goes on without writing.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        settings: FrameSettings,
        memory_mb: float = 1024,
        directory: str | os.PathLike[str] | None = None,
        timeout: float | None = TIMEOUT_SECONDS,
        in_process: bool = False,
    ) -> None:
        """``root``: the video folder; ``memory_mb``: at most this many megabytes of frames stay in memory;
        ``directory``: where frames are kept on disk; ``timeout``: seconds for decoding a clip; ``in_process``:
        decode in this process and not in one of its own, so that a crash of the decoder takes this one along."""
        self.root = Path(root)
        self.settings = settings
        self.memory_bytes = int(memory_mb * 1e6)
        self.directory = None if directory is None else Path(directory)
        self.timeout = timeout
        self.in_process = in_process
        self.write_error: OSError | None = None
        self._clips: OrderedDict[VideoRef, Clip] = OrderedDict()
        self._lengths: dict[str, int] = {}
        """Bytes of each video's file at the first look."""
        self._used = 0
        self._lock = threading.Lock()

    def clip(self, ref: VideoRef) -> Clip:
        """The frames of a video or a part of it; raises `VideoError` with the video's name and the reason."""
        clip = self.remembered(ref)
        if clip is not None:
            return clip
        whole = self._get(ref.whole, None)
        start, end = window_of(ref, whole.end)
        part = cut(whole, start, end, ref.settings(self.settings))
        if part is not None:
            return part
        _, _, height, width = whole.frames.shape
        return self._get(replace(ref, start=start, end=end), (height, width))

    def remembered(self, ref: VideoRef) -> Clip | None:
        """The frames of a video or a part of it if memory alone gives them; raises `VideoError` as `clip` does."""
        clip = self._recall(ref)
        if clip is not None:
            return clip
        whole = self._recall(ref.whole)
        if whole is None:
            return None
        start, end = window_of(ref, whole.end)
        return cut(whole, start, end, ref.settings(self.settings)) or self._recall(replace(ref, start=start, end=end))

    def _recall(self, ref: VideoRef) -> Clip | None:
        with self._lock:
            if ref in self._clips:
                self._clips.move_to_end(ref)
            return self._clips.get(ref)

    def _get(self, ref: VideoRef, size: tuple[int, int] | None) -> Clip:
        """From memory, or else from disk or decoded, and remembered; ``size`` as in `load_clip`."""
        clip = self._recall(ref)
        if clip is None:
            self.check_file(ref.path)
            clip = self._stored(ref, size)
            self.remember(ref, clip)
        return clip

    def check_file(self, path: str) -> None:
        """Raise `VideoError` where a video's file is missing or of another length than at this store's first look."""
        length = look_at(resolve(self.root, path), path).st_size
        first = self._lengths.setdefault(path, length)
        if first != length:
            raise VideoError(path, f"its file has changed in mid-run: {first} bytes before, {length} now")

    def remember(self, ref: VideoRef, clip: Clip) -> None:
        """Keep the frames that `clip` gives for ``ref`` in memory, in the place of those not used for longest."""
        with self._lock:
            if ref not in self._clips and clip.frames.nbytes <= self.memory_bytes:
                self._clips[ref] = clip
                self._used += clip.frames.nbytes
                while self._used > self.memory_bytes:
                    _, oldest = self._clips.popitem(last=False)
                    self._used -= oldest.frames.nbytes

    def _stored(self, ref: VideoRef, size: tuple[int, int] | None) -> Clip:
        """From disk, or else decoded and written there."""
        if self.directory is None:
            return self._decoded(ref, size)
        source = Source(resolve(self.root, ref.path), ref.path)
        path = entry_path(self.directory, self.settings, ref)
        clip = read_entry(path, ref, source)
        if clip is not None:
            return clip
        if self.write_error is None:
            try:
                with writing(path) as file:
                    clip = read_entry(path, ref, source)  # another process may have written it meanwhile
                    if clip is None:
                        clip = self._decoded(ref, size)
                        file.write(encode_entry(clip, source))
                return clip
            except OSError as error:
                self.write_error = error
                logger.warning("frames are no longer stored in %s: %s", self.directory, error)
        if clip is None:
            clip = self._decoded(ref, size)
        return clip

    def _decoded(self, ref: VideoRef, size: tuple[int, int] | None) -> Clip:
        decode = decode_clip if self.in_process else load_clip
        return decode(ref, self.settings, self.root, self.timeout, size)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the memory, what is known of files, and the lock, which stay in their process."""
        state = dict(self.__dict__)
        del state["_clips"], state["_lengths"], state["_used"], state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clips = OrderedDict()
        self._lengths = {}
        self._used = 0
        self._lock = threading.Lock()


def cut(whole: Clip, start: float, end: float, settings: FrameSettings) -> Clip | None:
    """The frames of a whole video that were taken for times in ``[start, end)`` seconds, an even number.

    The video itself for all of its length. None where they are fewer than the sampling rule asks for a window of that
    length, or where the video has no frame near one of those times. The result's ``start`` and ``end`` are the seconds
    that its frames stand for, which keeps the even spacing (`Clip.sampled_fps`) of the whole video.
    """
    if start == whole.start and end == whole.end:
        return whole
    step = 1 / whole.sampled_fps
    first, last = (math.ceil((time - whole.start) / step - 1e-6) for time in (start, end))
    last -= (last - first) % TEMPORAL_PATCH
    plenty = 1 << 30  # as if the source had frames enough; if it has not, decoding the part will tell
    if last - first < frame_count(plenty, end - start, settings):
        return None
    times = whole.timestamps[first:last]
    if np.abs(times - (whole.start + np.arange(first, last) * step)).max() > step / 2:
        return None
    return Clip(whole.frames[first:last], times, whole.start + first * step, whole.start + last * step, whole.path)
