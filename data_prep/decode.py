"""Decoding by presentation time with PyAV: which frames a file holds, and the pictures of some of them.

Two passes. `list_frames` reads the packets without decoding and lists the frames' presentation times, which also
works where the header states no duration or the frame rate varies. `decode_at` then decodes and keeps the
wanted frames only; it checks on the way that the frames that come out are those the packets promised.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from data_prep.errors import TIMEOUT, TRUNCATED, VideoError
from data_prep.orientation import upright
from data_prep.rows import MAX_SECONDS
from data_prep.video_file import open_video, picture_of, rational, reading

Picture = TypeVar("Picture")
Item = TypeVar("Item")

RELATIVE_CLOCK = {"mpegts", "mpeg"}
"""Containers whose clock starts anywhere; their times count from the container's start, as in players."""
TIMED_HEADER = ("mov", "matroska", "avi", "flv", "asf")
"""Containers whose duration is stated in the header; for others FFmpeg guesses it."""
LEAST_DECODED = 0.75
"""Share of the packets that must give a frame; VP8 has some that are never shown."""
TRUNCATION_SECONDS = 0.5
TRUNCATION_FRACTION = 0.05
"""A file that ends earlier than its header says by more than the larger of the two is truncated."""
PTS_GUESSED = {"avi"}
"""Containers without presentation times, which FFmpeg guesses from the order of decoding. With B frames they
are in disorder and start late by the decoder's delay: take the frames in the order they come out, the first
at the stream's start, and do not seek by time."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds, as its packets tell."""

    name: str
    """Name for error messages."""
    container: str
    """FFmpeg's name of the container format."""
    codec: str
    """FFmpeg's name of the codec."""
    width: int
    """Coded width in pixels, before rotation."""
    height: int
    """Coded height in pixels, before rotation."""
    pts: np.ndarray
    """int64, (frames,), presentation times in ticks of ``time_base``, ascending."""
    time_base: Fraction
    """Seconds per tick."""
    offset: int
    """Ticks at which the video's time 0 lies (0 but for broadcast streams and AVI)."""
    duration: float
    """Seconds from time 0 to the end of the last frame."""
    header_duration: float | None
    """Seconds that the header states, where it does."""
    reach: float
    """Seconds from a stream's first time that its packets reach: of the video, or of any stream where the
    header states one duration for all."""
    keyframes: tuple[tuple[int, int], ...]
    """``(pts, dts)`` of the packets that decoding can start at, ascending."""

    @property
    def times(self) -> np.ndarray:
        """float64, (frames,), presentation times in seconds."""
        return (self.pts - self.offset) * float(self.time_base.numerator) / float(self.time_base.denominator)

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.pts)

    @property
    def fps(self) -> float:
        """Frames per second on average."""
        return self.frames / self.duration


class Deadline:
    """A limit in seconds (None: none) for one video, from now; looked at between packets and between frames."""

    def __init__(self, name: str, seconds: float | None) -> None:
        self.name = name
        self.seconds = seconds
        self.end = None if seconds is None else time.monotonic() + seconds

    def check(self) -> None:
        """Raise `VideoError` if the time is up."""
        if self.end is not None and time.monotonic() > self.end:
            reason = f"not decoded within {self.seconds:g} s; raise the time limit for a video or leave it out"
            raise VideoError(self.name, reason, TIMEOUT)


def list_frames(path: str | os.PathLike[str], deadline: Deadline | None = None, name: str | None = None) -> VideoInfo:
    """List the frames of a video without decoding them; ``name`` is for error messages.

    Raises `VideoError` as `open_video` does, and for a file without frames, without presentation times, or
    whose frames end well before the duration that its header states.
    """
    name = str(path) if name is None else name
    deadline = deadline or Deadline(name, None)
    with open_video(path, name) as (container, stream):
        packets = PacketList(name, container, stream)
        for packet in each(container.demux(), name, lambda: f"reading stopped after {len(packets)} frames"):
            deadline.check()
            packets.add(packet)
        info = packets.info()
    check_complete(info)
    return info


def each(items: Iterable[Item], name: str, what: Callable[[], str]) -> Iterator[Item]:
    """The packets or frames that PyAV gives; a `VideoError` that begins ``what()`` where the file is damaged."""
    iterator = iter(items)
    while True:
        with reading(name, what):
            item = next(iterator, None)
        if item is None:
            return
        yield item


class PacketList:
    """What the packets of an open file say of its frames: `add` each, then ask for `info`."""

    def __init__(self, name: str, container: Any, stream: Any) -> None:
        self.name = name
        self.container = container
        self.stream = stream
        self.packets: list[_Packet] = []
        self.others_reach = 0.0

    def __len__(self) -> int:
        return len(self.packets)

    def add(self, packet: Any) -> None:
        """Note one packet of any stream; raises `VideoError` for one of the video without a presentation time."""
        if packet.size == 0:
            return
        if packet.stream.index != self.stream.index:
            self.others_reach = max(self.others_reach, _packet_end(packet))
        elif packet.pts is None:
            raise VideoError(self.name, "a packet carries no presentation time; re-mux the file with FFmpeg")
        elif not packet.is_discard:
            self.packets.append(_Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe))

    def info(self) -> VideoInfo:
        """The frames; raises `VideoError` if there are none."""
        container, stream = self.container, self.stream
        if not self.packets:
            raise VideoError(self.name, "no frame could be decoded")
        packets = sorted(self.packets, key=lambda packet: packet.pts)
        base = Fraction(stream.time_base.numerator, stream.time_base.denominator)
        ordered = np.array([packet.pts for packet in packets], dtype=np.int64)
        stated = _stated_duration(container, stream, base)
        offset = _time_zero(container, stream, base, packets[0].pts)
        end = _end(ordered, packets[-1].duration, stream, base, stated)
        reach = end - float((stream.start_time or 0) * base)
        return VideoInfo(
            name=self.name,
            container=container.format.name,
            codec=stream.codec_context.name,
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            pts=ordered,
            time_base=base,
            offset=offset,
            duration=end - float(offset * base),
            header_duration=stated,
            reach=reach if stream.duration else max(reach, self.others_reach),
            keyframes=tuple((p.pts, p.dts) for p in packets if p.is_keyframe and p.dts is not None),
        )


def decode_at(
    path: str | os.PathLike[str],
    info: VideoInfo,
    indices: Sequence[int],
    convert: Callable[[np.ndarray], Picture],
    to_end: bool = True,
    deadline: Deadline | None = None,
) -> tuple[dict[int, Picture], VideoInfo]:
    """Decode the frames of these indices (into ``info.times``) and hand each, upright, to ``convert``.

    ``convert`` receives uint8 (H, W, 3) RGB and its results come back by index. Stretches between two key frames that
    hold no wanted frame are skipped, so that a frame's time does not depend on where in the video it lies. With
    ``to_end`` and nothing to skip everything is decoded, so that a file damaged anywhere is noticed; otherwise each
    stretch only up to its last wanted frame. Also returned is what the file really holds: ``info`` itself, or, where
    decoding gave other frames than the packets promised, a corrected one, and then the pictures are void:
    choose the indices anew and call again. Raises `VideoError` where decoding stops half-way.
    """
    wanted = sorted(set(indices))
    decoding = _Decoding(path, info, wanted, convert, deadline or Deadline(info.name, None))
    starts = _starts(info)
    stretches = (np.searchsorted(starts, wanted, side="right") - 1).tolist()
    in_part = not to_end or len(set(stretches)) < len(starts)
    if in_part and decoding.of_runs(_runs(wanted, stretches, starts)):
        return decoding.pictures, info
    decoding.pictures.clear()
    pts, last_duration = decoding.of_all()
    found = as_decoded(info, pts, last_duration)
    return (decoding.pictures if found is info else {}), found


def _starts(info: VideoInfo) -> list[int]:
    """Indices of the frames that decoding can start at, the first frame among them."""
    keys = [] if info.container in PTS_GUESSED else [pts for pts, _ in info.keyframes]
    return np.union1d([0], np.searchsorted(info.pts, keys)).astype(int).tolist()


def _runs(wanted: Sequence[int], stretches: Sequence[int], starts: Sequence[int]) -> list[range]:
    """What to decode: of each stretch with wanted frames, from its start to the last of them."""
    runs: list[range] = []
    before = -1
    for index, stretch in zip(wanted, stretches, strict=True):
        goes_on = bool(runs) and (stretch == before or index == runs[-1].stop)
        runs.append(range(runs.pop().start if goes_on else starts[stretch], index + 1))
        before = stretch
    return runs


class _Decoding:
    """The wanted ``pictures`` of a file by index, as they are decoded.

    A frame's index is its place in the order of output, which is the order of presentation also where a container (AVI)
    numbers the frames in the order of decoding.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        info: VideoInfo,
        wanted: Sequence[int],
        convert: Callable[[np.ndarray], Any],
        deadline: Deadline,
    ) -> None:
        self.path = path
        self.info = info
        self.wanted = set(wanted)
        self.convert = convert
        self.deadline = deadline
        self.pictures: dict[int, Any] = {}
        # One converter without threads: each frame would otherwise start a pool, and a pool that a forked worker
        # process inherits hangs it when the frame is freed.
        self.converter = VideoReformatter()

    def of_runs(self, runs: Sequence[range]) -> bool:
        """Decode these stretches alone; False where the file gave other frames than its packets promised."""
        with open_video(self.path, self.info.name) as (container, stream):
            for run in runs:
                if run.start:
                    self._seek(container, stream, run.start)
                pts = [pts for pts, _ in self._frames(container, stream, run)]
                if pts != self.info.pts[run.start : run.stop].tolist():
                    return False
        return True

    def of_all(self) -> tuple[list[int], int]:
        """Decode the whole file: the times of its frames in ticks, in their order, and the last one's duration."""
        with open_video(self.path, self.info.name) as (container, stream):
            frames = list(self._frames(container, stream, None))
        return [pts for pts, _ in frames], frames[-1][1] if frames else 0

    def _seek(self, container: Any, stream: Any, index: int) -> None:
        start_pts = self.info.pts[index]
        dts = next(dts for pts, dts in self.info.keyframes if pts == start_pts)
        with reading(self.info.name, lambda: f"seeking to frame {index} failed"):
            container.seek(dts, stream=stream, backward=True)

    def _frames(self, container: Any, stream: Any, run: range | None) -> Iterator[tuple[int, int]]:
        """Time and duration in ticks of each frame of the run, or of the file; keeps the wanted pictures."""
        name, index = self.info.name, run.start if run else 0
        start_pts = self.info.pts[index] if index else None

        def progress() -> str:
            return f"decoding stopped after {index} of {self.info.frames} frames"

        for frame in each(container.decode(stream), name, progress):
            self.deadline.check()
            pts = pts_of(frame, name)
            if start_pts is not None and pts < start_pts:
                continue
            if index in self.wanted:
                with reading(name, progress):
                    rgb = upright(picture_of(frame, self.converter), frame)
                self.pictures[index] = self.convert(rgb)
            index += 1
            yield pts, frame.duration or 0
            if run and index >= run.stop:
                return


def pts_of(frame: Any, name: str) -> int:
    """A frame's presentation time in ticks; raises `VideoError` where it carries none."""
    if frame.pts is None:
        raise VideoError(name, "a frame carries no presentation time; re-mux the file with FFmpeg")
    return int(frame.pts)


def as_decoded(info: VideoInfo, pts: Sequence[int], last_duration: int) -> VideoInfo:
    """``info`` itself if decoding the whole file gave its frames, else with those that it gave.

    Takes their times in ticks and the last one's duration; raises `VideoError` if too many frames are missing,
    at the end or anywhere.
    """
    if np.array_equal(np.sort(np.array(pts, dtype=np.int64)), info.pts):
        return info
    if len(pts) < max(1, LEAST_DECODED * info.frames):
        raise VideoError(info.name, f"only {len(pts)} of {info.frames} frames could be decoded")
    ordered = np.array(sorted(pts), dtype=np.int64)
    length = last_duration or _spacing(ordered)
    base = float(info.time_base)
    end = float(ordered[-1] - info.offset) * base + (length * base or info.duration - float(info.times[-1]))
    reach = info.reach - max(0.0, info.duration - end)
    corrected = replace(info, pts=ordered, duration=end, reach=reach, keyframes=())
    check_complete(corrected)
    return corrected


def check_complete(info: VideoInfo) -> None:
    """Raise `VideoError` if the file ends before the duration that its header states, as `TRUNCATION_SECONDS` says.

    And if its times are damaged: before 0 as a whole, or of more than `MAX_SECONDS`.
    """
    if not 0 < info.duration < MAX_SECONDS:
        raise VideoError(info.name, f"damaged times: the frames end at {info.duration:g} s")
    stated, reach = info.header_duration, info.reach
    if stated is not None and stated - reach > max(TRUNCATION_FRACTION * stated, TRUNCATION_SECONDS):
        reason = f"truncated: the header states {stated:.3f} s, the frames end after {reach:.3f} s"
        raise VideoError(info.name, reason, TRUNCATED)


def _time_zero(container: Any, stream: Any, base: Fraction, first_pts: int) -> int:
    """Ticks at which the video's time 0 lies; ``first_pts`` is the first frame's."""
    if container.format.name in RELATIVE_CLOCK and container.start_time:
        return round(Fraction(container.start_time, av.time_base) / base)
    if container.format.name in PTS_GUESSED:
        return first_pts - (stream.start_time or 0)
    return 0


class _Packet(NamedTuple):
    """What is kept of a packet of the video stream; times in ticks."""

    pts: int
    dts: int | None
    duration: int
    is_keyframe: bool


def _packet_end(packet: Any) -> float:
    """Seconds from its stream's first time at which a packet ends; 0 where it carries no time."""
    base = rational(packet.time_base)
    if packet.pts is None or base is None:
        return 0.0
    return float((packet.pts + (packet.duration or 0) - (packet.stream.start_time or 0)) * base)


def _stated_duration(container: Any, stream: Any, base: Fraction) -> float | None:
    """Seconds that the header states for the video stream, or else for the longest stream."""
    if not container.format.name.startswith(TIMED_HEADER):
        return None
    rate = rational(stream.average_rate)
    if container.format.name == "avi" and rate:
        # FFmpeg shortens the duration of a cut file to what is left, but not the number of frames.
        return stream.frames / float(rate) or None
    if stream.duration:
        return float(stream.duration * base)
    return container.duration / av.time_base if container.duration else None


def _end(pts: np.ndarray, last_duration: int, stream: Any, base: Fraction, stated: float | None) -> float:
    """Seconds at which the last frame ends, by the first of these that is known.

    Its own duration, the usual spacing of frames, the frame rate; a single frame of a file that states its
    duration lasts as long; else 1/25 s.
    """
    last = float(pts[-1]) * float(base)
    if last_duration or _spacing(pts):
        return last + (last_duration or _spacing(pts)) * float(base)
    rate = rational(stream.average_rate)
    if rate:
        return last + 1 / float(rate)
    if stated is not None and stated > last:
        return stated
    return last + 0.04


def _spacing(pts: np.ndarray) -> int:
    """Median ticks between frames; 0 for a single frame."""
    return int(np.median(np.diff(pts))) if len(pts) > 1 else 0
