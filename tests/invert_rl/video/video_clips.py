"""Generated videos whose pictures say which frame they are: eight black or white blocks, 4 x 2, as bits."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

HEIGHT, WIDTH, BLOCK = 64, 128, 32
MILLISECONDS = Fraction(1, 1000)


def picture(index: int) -> np.ndarray:
    """uint8 (64, 128, 3): ``index`` (below 256) in eight blocks, the highest bit at the top left."""
    bits = np.array([index >> bit & 1 for bit in range(7, -1, -1)]).reshape(2, 4)
    grey = np.kron(bits, np.ones((BLOCK, BLOCK))) * 200 + 25
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def read_indices(frames: torch.Tensor) -> list[int]:
    """The index of each of the frames (T, 3, H, W), whatever their size."""
    blocks = torch.nn.functional.adaptive_avg_pool2d(frames.float().mean(1), (6, 12))[:, 1::3, 1::3]
    bits = (blocks > 125).flatten(1).long()
    return (bits * 2 ** torch.arange(7, -1, -1)).sum(1).tolist()


def write_video(
    path: Path,
    codec: str,
    pts: list[int],
    time_base: Fraction = MILLISECONDS,
    pictures: list[np.ndarray] | None = None,
    rate: int = 10,
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode one picture per entry of ``pts`` (ticks of ``time_base``); by default picture i says i."""
    pictures = [picture(index) for index in range(len(pts))] if pictures is None else pictures
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=codec_options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = time_base
        for ticks, image in zip(pts, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=stream.pix_fmt, threads=1)
            frame.pts, frame.time_base = ticks, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def constant_rate(path: Path, codec: str, frames: int = 40, rate: int = 10, **options: dict[str, str]) -> Path:
    """A video of ``frames`` frames at ``rate`` frames per second from time 0."""
    return write_video(path, codec, list(range(frames)), Fraction(1, rate), rate=rate, **options)


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Overwrite the matrix in the track header of a QuickTime/MP4 file (ISO/IEC 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes of other fields come first
    unit = 1 << 16
    data[matrix : matrix + 36] = struct.pack(">9i", a * unit, b * unit, 0, c * unit, d * unit, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
