"""A corpus of damaged videos: small generated clips in every container that PyAV can write, and mutations of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

CODECS = (
    "libx264",
    "mpeg4",
    "mpeg2video",
    "libvpx-vp9",
    "mjpeg",
    "wmv2",
    "flv",
    "gif",
    "apng",
    "dvvideo",
    "rv10",
    "h263",
)
"""Encoders to try for a container, in this order."""
EXTRA_PAIRS = (
    *(("mp4", "libx265"), ("mp4", "mpeg4"), ("matroska", "libsvtav1"), ("webm", "libvpx"), ("avi", "mjpeg")),
    *(("mpeg", "mpeg2video"), ("mpegts", "mpeg2video"), ("asf", "wmv2"), ("flv", "flv")),
)
SIZES = {"dvvideo": (720, 576, 25, "yuv420p"), "h263": (176, 144, 25, "yuv420p"), "gif": (64, 48, 10, "rgb8")}
NOT_FILES = {
    *("alsa", "fbdev", "oss", "pulse", "sdl", "v4l2", "video4linux2,v4l2", "xv", "opengl", "caca"),
    *("rtsp", "sap", "rtp", "rtp_mpegts", "whip", "fifo", "tee", "null"),
    *("dash", "hds", "hls", "image2", "segment", "smoothstreaming", "stream_segment,ssegment", "webm_chunk"),
}
"""Devices, networks, and formats of several files."""


def encode(path: Path, container: str, codec: str, frames: int = 12) -> bool:
    """Write a clip of moving noise; False where this container does not take this codec."""
    width, height, rate, pix_fmt = SIZES.get(codec, (64, 48, 10, "yuvj420p" if codec == "mjpeg" else "yuv420p"))
    noise = np.random.default_rng(0)
    try:
        with av.open(str(path), "w", format=container) as out:
            out.metadata["title"] = "a title of a film"
            stream = out.add_stream(codec, rate=rate)
            stream.width, stream.height = width, height
            stream.pix_fmt = "rgb24" if codec == "apng" else pix_fmt
            stream.codec_context.gop_size = 5
            for _ in range(frames):
                picture = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                out.mux(stream.encode(frame.reformat(format=stream.pix_fmt, threads=1)))
            out.mux(stream.encode())
    except (av.FFmpegError, OSError, ValueError, TypeError, RuntimeError):
        path.unlink(missing_ok=True)
        return False
    return path.is_file() and path.stat().st_size > 200


def write_clips(folder: Path) -> list[Path]:
    """One clip for every container that PyAV can write a video to, and some for other codecs."""
    written = []
    for container in sorted(av.formats_available - NOT_FILES):
        try:
            if not av.format.ContainerFormat(container, "w").is_output:
                continue
        except ValueError:
            continue
        for codec in CODECS:
            path = folder / f"{container.replace(',', '_')}-{codec}.video"
            if encode(path, container, codec):
                written.append(path)
                break
    for container, codec in EXTRA_PAIRS:
        path = folder / f"{container}-{codec}.video"
        if encode(path, container, codec):
            written.append(path)
    return sorted(set(written))


def mutations(data: bytes, seed: int) -> Iterator[bytes]:
    """Damaged versions of a file without end: what disks, transfers and bad luck do, and worse."""
    chance = random.Random(seed)
    while True:
        damaged = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 5, 40))):
            _damage(damaged, chance)
        yield bytes(damaged)


def _damage(data: bytearray, chance: random.Random) -> None:
    if len(data) < 16:
        return
    # Headers and indices lie at the two ends, and small damage there does most.
    place = int(chance.choice((chance.random(), chance.random() ** 3, 1 - chance.random() ** 3)) * (len(data) - 8))
    length = chance.choice((1, 2, 4, 8, 64, 512, 4096))
    kind = chance.randrange(10)
    if kind == 0:
        data[place] ^= 1 << chance.randrange(8)
    elif kind == 1:
        data[place] = chance.randrange(256)
    elif kind == 2:
        data[place : place + length] = bytes(len(data[place : place + length]))
    elif kind == 3:
        data[place : place + length] = b"\xff" * len(data[place : place + length])
    elif kind == 4:
        data[place : place + length] = chance.randbytes(len(data[place : place + length]))
    elif kind == 5:
        del data[place : place + length]
    elif kind == 6:
        data[place:place] = chance.randbytes(length)
    elif kind == 7:
        del data[max(16, place) :]
    elif kind == 8:
        other = chance.randrange(len(data))
        data[place : place + length] = data[other : other + length]
    else:
        value = chance.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF))
        size = 4 if value <= 0xFFFFFFFF else 8
        data[place : place + size] = value.to_bytes(size, chance.choice(("big", "little")))
