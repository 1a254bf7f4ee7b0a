"""A moment of a video as a file of its own."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from data_prep.decode import Deadline, decode_at, list_frames
from data_prep.errors import DataError, VideoError

TICKS = 1000
"""Of a second; times are rounded to them."""
CRF = "20"


def cut_file(source: Path, start: float, end: float, target: Path) -> int:
    """Write the frames of ``source`` in ``[start, end)`` seconds as H.264, upright, without sound; returns how many.

    The first frame stands at 0 s; heights and widths are made even. Raises `VideoError` where the source cannot be
    decoded, `DataError` where there is no frame in between, the target is the source or cannot be written.
    """
    if target.exists() and os.path.samefile(source, target):
        raise DataError(f"{target}: is the video itself; give another file")
    info = list_frames(source, name=str(source))
    for _ in range(3):
        indices = np.flatnonzero((info.times >= start - 1e-6) & (info.times < end - 1e-6)).tolist()
        if not indices:
            raise DataError(f"{source}: holds no frame from {start:.2f} to {end:.2f} s")
        draft = target.with_name(f".{target.name}.writing{target.suffix}")
        try:
            with Writer(draft, (info.times[indices] - info.times[indices[0]]).tolist()) as writer:
                _, found = decode_at(source, info, indices, writer.add, False, Deadline(str(source), None))
            if found is info:
                os.replace(draft, target)
                return len(indices)
        except (av.FFmpegError, ValueError) as error:
            raise DataError(f"{target}: cannot be written as a video ({error}); let it end in .mp4") from error
        finally:
            draft.unlink(missing_ok=True)
        info = found
    raise VideoError(str(source), "decoding gives other frames each time; re-encode the file with FFmpeg")


class Writer:
    """An H.264 file that is given one picture after the other."""

    def __init__(self, path: Path, times: list[float]) -> None:
        self.container = av.open(str(path), "w")
        self.stream = self.container.add_stream("libx264", rate=TICKS, options={"crf": CRF, "preset": "veryfast"})
        self.stream.pix_fmt, self.stream.time_base = "yuv420p", Fraction(1, TICKS)
        self.times = iter(times)
        self.started = False

    def __enter__(self) -> Writer:
        return self

    def add(self, picture: np.ndarray) -> None:
        """Encode the next picture, uint8 (H, W, 3) RGB."""
        height, width = (max(2, side - side % 2) for side in picture.shape[:2])
        if not self.started:
            self.stream.height, self.stream.width = height, width
            self.started = True
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
        frame.pts, frame.time_base = round(next(self.times, 0.0) * TICKS), Fraction(1, TICKS)
        self.container.mux(self.stream.encode(frame))

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self.started and error is None:
            self.container.mux(self.stream.encode())
        self.container.close()
