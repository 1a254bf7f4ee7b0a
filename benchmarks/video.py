"""A second epoch's frames from the frame store against decoding the videos again.

``python benchmarks/video.py [--videos DIR] [--encodings] [--json]``. Without ``--videos`` three clips are made. Every
video is decoded by `decode_clip`, and read by a `FrameStore` that keeps nothing in memory, every byte of it; both on
one thread, files in the page cache. ``--encodings`` also measures other ways to keep the same frames.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import tempfile
import time
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_image, encode_jpeg, encode_png

from invert_rl.video.errors import VideoError
from invert_rl.video.load import decode_clip
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore

READS = 3
"""Reads of each video from the store; the median counts."""


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """A call's result and its wall time in seconds."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def make_videos(folder: Path, count: int = 3, seconds: int = 20, rate: int = 30) -> None:
    """Write clips of 640 x 360 pixels with smooth moving pictures."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:360, 0:640].astype(np.float32)
    for index in range(count):
        waves = rng.uniform(0.005, 0.05, (3, 3))
        with av.open(str(folder / f"{index}.mp4"), "w") as container:
            stream: Any = container.add_stream("libx264", rate=rate)
            stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
            for step in range(seconds * rate):
                channels = [np.sin(a * x + b * y + 3 * c * step) for a, b, c in waves]
                image = (127 + 100 * np.stack(channels, axis=-1)).astype(np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = step, Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())


def compare(videos: Path, settings: FrameSettings, store: Path) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Time both ways over a folder; also returns the frames of each video, uint8 (T, 3, H, W)."""
    names = sorted(str(path.relative_to(videos)) for path in videos.rglob("*") if path.is_file())
    decode_seconds = read_seconds = 0.0
    ratios, frames, left_out = [], [], []
    for name in names:
        ref = VideoRef(name)
        try:
            decoded, first = timed(functools.partial(decode_clip, ref, settings, videos))
        except VideoError:
            left_out.append(name)
            continue
        decode = min(first, timed(functools.partial(decode_clip, ref, settings, videos))[1])
        FrameStore(videos, settings, memory_mb=0, directory=store).clip(ref)
        reader = FrameStore(videos, settings, memory_mb=0, directory=store)
        times = []
        for _ in range(READS):
            copy, seconds = timed(lambda: reader.clip(ref).frames.clone())  # noqa: B023 (called at once)
            times.append(seconds)
        assert torch.equal(copy, decoded.frames)
        read = sorted(times)[READS // 2]
        decode_seconds, read_seconds = decode_seconds + decode, read_seconds + read
        ratios.append(decode / read)
        frames.append(decoded.frames)
    stored = sum(path.stat().st_size for path in store.rglob("*.safetensors"))
    result = {
        "compared": "decoding the videos against reading their frames from the store, seconds in all",
        "decode_seconds": round(decode_seconds, 3),
        "read_seconds": round(read_seconds, 4),
        "ratio": round(decode_seconds / read_seconds, 1),
        "least_ratio": round(min(ratios), 1),
        "videos": len(ratios),
        "left_out": left_out,
        "frames": sum(len(clip) for clip in frames),
        "store_mb": round(stored / 1e6, 1),
    }
    return result, frames


def images(encode: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Callable, Callable]:
    """Writer and reader of one compressed picture per frame."""
    return (
        lambda clip: [encode(frame).numpy().tobytes() for frame in clip],
        lambda parts, _: torch.stack(
            [decode_image(torch.frombuffer(bytearray(part), dtype=torch.uint8), ImageReadMode.RGB) for part in parts]
        ),
    )


def video(codec: str, pixels: str, options: dict[str, str]) -> tuple[Callable, Callable]:
    """Writer and reader of the frames as a video of their own."""

    def write(clip: torch.Tensor) -> list[bytes]:
        memory = io.BytesIO()
        with av.open(memory, "w", format="matroska") as container:
            stream: Any = container.add_stream(codec, rate=2, options=options)
            stream.height, stream.width, stream.pix_fmt = clip.shape[2], clip.shape[3], pixels
            for frame in clip.permute(0, 2, 3, 1).contiguous().numpy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        return [memory.getvalue()]

    def read(parts: list[bytes], _: torch.Size) -> torch.Tensor:
        container: Any = av.open(io.BytesIO(parts[0]))
        with container:
            container.streams.video[0].codec_context.thread_count = 1
            frames = [frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)]
        return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)

    return write, read


ENCODINGS: dict[str, tuple[Callable, Callable]] = {
    "raw uint8": (
        lambda clip: [clip.numpy().tobytes()],
        lambda parts, shape: torch.frombuffer(bytearray(parts[0]), dtype=torch.uint8).reshape(shape),
    ),
    "raw, zlib level 1": (
        lambda clip: [zlib.compress(clip.numpy().tobytes(), 1)],
        lambda parts, shape: torch.frombuffer(bytearray(zlib.decompress(parts[0])), dtype=torch.uint8).reshape(shape),
    ),
    "PNG per frame": images(lambda frame: encode_png(frame, compression_level=1)),
    "JPEG per frame, quality 95": images(lambda frame: encode_jpeg(frame, quality=95)),
    "H.264 RGB, lossless": video("libx264rgb", "rgb24", {"crf": "0", "preset": "veryfast"}),
    "H.264 4:4:4, crf 12": video("libx264", "yuv444p", {"crf": "12", "preset": "veryfast"}),
}


def encodings(clips: list[torch.Tensor], folder: Path) -> list[dict[str, Any]]:
    """Size, time and fidelity of each way to keep the clips; PSNR in dB over all pixels, None where lossless."""
    table = []
    for name, (write, read) in ENCODINGS.items():
        size, write_seconds, read_seconds, error, pixels = 0, 0.0, 0.0, 0.0, 0
        for clip in clips:
            parts, seconds = timed(functools.partial(write, clip))
            write_seconds += seconds
            path = folder / "clip"
            path.write_bytes(b"".join(parts))
            size += path.stat().st_size
            ends = np.cumsum([len(part) for part in parts]).tolist()

            def load(
                path: Path = path, ends: list[int] = ends, read: Callable = read, clip: torch.Tensor = clip
            ) -> Any:
                data = path.read_bytes()
                return read([data[a:b] for a, b in zip([0, *ends], ends, strict=False)], clip.shape)

            restored, seconds = min((timed(load) for _ in range(READS)), key=lambda pair: pair[1])
            read_seconds += seconds
            error += (restored.float() - clip.float()).square().sum().item()
            pixels += clip.numel()
        table.append(
            {
                "encoding": name,
                "mb_per_video": round(size / len(clips) / 1e6, 2),
                "write_seconds": round(write_seconds, 3),
                "read_seconds": round(read_seconds, 4),
                "psnr_db": None if error == 0 else round(10 * float(np.log10(255**2 * pixels / error)), 1),
            }
        )
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder of videos; default: three clips are made")
    parser.add_argument("--encodings", action="store_true", help="also measure other encodings of the frames")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        videos = args.videos
        if videos is None:
            videos = Path(temporary) / "videos"
            videos.mkdir()
            make_videos(videos)
        (Path(temporary) / "store").mkdir()
        result, frames = compare(videos, FrameSettings(), Path(temporary) / "store")
        if args.encodings:
            result["encodings"] = encodings(frames, Path(temporary))
    if args.json:
        print(json.dumps(result))
        return
    table = result.pop("encodings", [])
    for key, value in result.items():
        print(f"{key}: {value}")
    for row in table:
        print(" | ".join(str(value) for value in row.values()))


if __name__ == "__main__":
    main()
