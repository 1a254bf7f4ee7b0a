"""Moving pictures for a page without a network: small H.264 clips or a few JPEG frames, as base64."""

from __future__ import annotations

import base64
import functools
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from PIL import Image

from data_prep.errors import VideoError
from data_prep.progress import progress
from data_prep.video_file import open_video, resolve
from data_prep.workers import TIMEOUT_SECONDS
from invert_rl.video.clip import Clip
from invert_rl.video.load import decode_apart, load_clip
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings

logger = logging.getLogger(__name__)

Kind = Literal["clips", "frames", "none"]

AS_IT_IS = 300_000
"""A small H.264 mp4 is embedded as it is, up to this many bytes."""
CLIP = FrameSettings(fps=6.0, max_frames=360, total_pixels=1 << 31, min_pixels=1 << 12, max_pixels=320 * 240)
STRIP = FrameSettings(
    fps=1.0, min_frames=4, max_frames=8, total_pixels=1 << 31, min_pixels=1 << 12, max_pixels=160 * 120
)
CRF = 30
TICKS = 1000


@dataclass(frozen=True)
class Medium:
    """What the page shows of one video."""

    kind: str
    """clip, frames, or none."""
    data: list[str]
    """Base64: one mp4 file, or JPEG pictures."""
    times: list[float]
    """Seconds of each picture; empty for a clip."""
    reason: str = ""
    """Why there is nothing to see."""


def media_of(videos: Sequence[str], root: Path, kind: Kind, limit_bytes: int) -> dict[str, Medium]:
    """A medium for each video by name, as long as all together stay below ``limit_bytes`` (of base64).

    Videos come in order of importance: where a clip does not fit any more frames are taken, and then nothing. A video
    that cannot be decoded has none, with the reason.
    """
    found: dict[str, Medium] = {}
    left = limit_bytes
    forms = list({"clips": (functools.partial(_clip, AS_IT_IS), _frames), "frames": (_frames,), "none": ()}[kind])
    for name in progress(list(dict.fromkeys(videos)), "clips"):
        medium = Medium("none", [], [], "left out to keep the file small")
        while forms:
            try:
                candidate = decode_apart(_made, (forms[0], name, root), name, TIMEOUT_SECONDS)
            except VideoError as error:
                logger.warning("%s is not shown: %s", name, error)
                medium = Medium("none", [], [], str(error))
                break
            size = sum(len(data) for data in candidate.data)
            if size <= left:
                medium, left = candidate, left - size
                break
            forms.pop(0)  # nor is there room for the next ones: do not decode them in vain
        found[name] = medium
    return found


def _made(item: tuple[Callable[[str, Path], Medium], str, Path]) -> Medium:
    """Called in a worker process: a form of a video."""
    form, name, root = item
    return form(name, root)


def _clip(as_it_is: int, name: str, root: Path) -> Medium:
    path = resolve(root, name)
    if path.is_file() and path.stat().st_size <= as_it_is and _plays_everywhere(path, name):
        return Medium("clip", [_base64(path.read_bytes())], [])
    return Medium("clip", [_base64(encode(load_clip(VideoRef(name), CLIP, root)))], [])


def _frames(name: str, root: Path) -> Medium:
    clip = load_clip(VideoRef(name), STRIP, root)
    pictures = []
    for frame in clip.frames:
        target = io.BytesIO()
        Image.fromarray(_picture(frame)).save(target, format="JPEG", quality=70)
        pictures.append(_base64(target.getvalue()))
    return Medium("frames", pictures, [round(float(time), 3) for time in clip.timestamps])


def encode(clip: Clip) -> bytes:
    """The frames of a clip as an H.264 mp4 file, each at its own time, the first at 0 s."""
    target = io.BytesIO()
    _, _, height, width = clip.frames.shape
    with av.open(target, "w", format="mp4") as container:
        options = {"crf": str(CRF), "preset": "veryfast", "bf": "0", "threads": "1"}
        stream = container.add_stream("libx264", rate=TICKS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, TICKS)
        for time, frame in zip(clip.timestamps.tolist(), clip.frames, strict=True):
            picture = av.VideoFrame.from_ndarray(_picture(frame), format="rgb24")
            picture.pts, picture.time_base = round(time * TICKS), Fraction(1, TICKS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return target.getvalue()


def _picture(frame: object) -> np.ndarray:
    """(3, H, W) tensor to (H, W, 3) array."""
    return np.ascontiguousarray(frame.permute(1, 2, 0).numpy())  # type: ignore[attr-defined]


def _plays_everywhere(path: Path, name: str) -> bool:
    """Whether browsers play the file: H.264 with 4:2:0 colours in an mp4."""
    with open_video(path, name) as (container, stream):
        context = stream.codec_context
        return "mp4" in container.format.name and context.name == "h264" and context.pix_fmt in ("yuv420p", "yuvj420p")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
