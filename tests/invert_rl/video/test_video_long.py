"""Few frames of a long video: only the stretches that hold them are decoded, and the pictures are those of them all."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from data_prep import decode
from invert_rl.video.load import decode_clip
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings
from tests.invert_rl.video.video_clips import (
    HEIGHT,
    MILLISECONDS,
    WIDTH,
    constant_rate,
    picture,
    read_indices,
    set_display_matrix,
    write_video,
)

FRAMES, GROUP = 120, 12
X264 = "bframes=3:b-pyramid=normal:scenecut=0:keyint=12:min-keyint=12"
FORMATS = [
    ("libx264", "mp4", {"x264-params": X264}),
    ("libx264", "mkv", {"x264-params": f"{X264}:open-gop=1"}),
    ("libx264", "ts", {"x264-params": f"{X264}:open-gop=1"}),
    ("libx264", "flv", {"x264-params": "keyint=12:intra-refresh=1"}),  # no picture there can be decoded alone
    ("libx265", "mp4", {"x265-params": "log-level=none:bframes=3:open-gop=1:keyint=12:min-keyint=12:scenecut=0"}),
    ("libvpx-vp9", "webm", {"g": "12", "deadline": "realtime", "cpu-used": "8"}),
    ("mpeg4", "avi", {"g": "12"}),
]


def settings(frames: int) -> FrameSettings:
    """That many frames of any video, at its size."""
    return FrameSettings(fps=100.0, min_frames=2, max_frames=frames, total_pixels=10**9, image_patch_size=16)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The times of all frames that come out of the decoder, also of those that nobody asked for."""
    times: list[int] = []
    pts_of = decode.pts_of

    def noted(frame, name: str) -> int:
        times.append(pts_of(frame, name))
        return times[-1]

    monkeypatch.setattr(decode, "pts_of", noted)
    return times


def frames_of(path: Path, wanted: list[int], to_end: bool = True) -> dict[int, np.ndarray]:
    info = decode.list_frames(path)
    pictures, found = decode.decode_at(path, info, wanted, np.copy, to_end)
    assert found is info
    return pictures


@pytest.mark.parametrize(("codec", "extension", "options"), FORMATS, ids=[f"{c}-{e}" for c, e, _ in FORMATS])
def test_frames_far_apart_are_those_of_a_full_decode(tmp_path: Path, codec, extension, options) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot encode {codec}")
    rng = np.random.default_rng(0)
    noise = [picture(index) // 2 + rng.integers(0, 90, (HEIGHT, WIDTH, 1), dtype=np.uint8) for index in range(FRAMES)]
    pts, base = list(range(FRAMES)), Fraction(1, 10)
    path = write_video(tmp_path / f"clip.{extension}", codec, pts, base, pictures=noise, codec_options=options)
    every = frames_of(path, list(range(FRAMES)))
    for count in (1, 2, 5):
        wanted = sorted(rng.choice(FRAMES, size=count, replace=False).tolist())
        for to_end in (True, False):
            some = frames_of(path, wanted, to_end)
            assert sorted(some) == wanted
            assert all(np.array_equal(some[index], every[index]) for index in wanted)


def test_the_cost_of_a_frame_does_not_depend_on_where_it_is(tmp_path: Path, decoded: list[int]) -> None:
    path = constant_rate(tmp_path / "long.mp4", "libx264", FRAMES, codec_options={"x264-params": X264})
    costs = []
    for index in (2, FRAMES // 2 + 2, FRAMES - 2 * GROUP + 2):  # all are the third of their stretch
        decoded.clear()
        frames_of(path, [index])
        costs.append(len(decoded))
    assert max(costs) <= 3 + GROUP  # at worst from the key frame before the one that would have done
    decoded.clear()
    frames_of(path, [5, FRAMES - 5])
    assert len(decoded) <= 2 * (GROUP + GROUP)
    decoded.clear()
    frames_of(path, list(range(0, FRAMES, GROUP)))  # one in each stretch: damage anywhere is looked for
    assert len(decoded) == FRAMES


def test_a_long_video_of_changing_rate_turned_on_its_side(tmp_path: Path, decoded: list[int]) -> None:
    """What phones make: variable frame rate, B frames, and a rotation to be heeded."""
    rng = np.random.default_rng(1)
    pts = np.cumsum(rng.integers(20, 400, FRAMES)).tolist()
    path = write_video(tmp_path / "phone.mp4", "libx264", pts, MILLISECONDS, codec_options={"x264-params": X264})
    upright = decode_clip(VideoRef("phone.mp4"), settings(4), tmp_path)
    set_display_matrix(path, 0, 1, -1, 0)
    every = decode_clip(VideoRef("phone.mp4"), settings(FRAMES), tmp_path)
    decoded.clear()
    clip = decode_clip(VideoRef("phone.mp4"), settings(4), tmp_path)
    assert len(decoded) < FRAMES / 2
    assert clip.frames.shape[2:] == upright.frames.shape[:1:-1] and len(clip.frames) == 4
    targets = np.arange(4) * clip.end / 4
    assert np.array_equal(clip.timestamps, [every.timestamps[np.abs(every.timestamps - t).argmin()] for t in targets])
    places = np.searchsorted(every.timestamps, clip.timestamps)
    assert torch.equal(clip.frames, every.frames[places])
    assert read_indices(upright.frames) == places.tolist()


def test_damage_where_nothing_is_taken_from_costs_nothing_and_elsewhere_is_an_error(tmp_path: Path) -> None:
    path = constant_rate(tmp_path / "hole.mp4", "libx264", FRAMES, codec_options={"x264-params": X264})
    every = frames_of(path, list(range(FRAMES)))
    info = decode.list_frames(path)
    with av.open(str(path)) as container:
        packets = [(p.pts, p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    hole = range(int(info.pts[5 * GROUP]), int(info.pts[6 * GROUP]))
    for pts, pos, size in packets:
        if pts in hole:
            data[pos + 4 : pos + size] = bytes(size - 4)
    path.write_bytes(data)
    some = frames_of(path, [3, FRAMES - 3])
    assert all(np.array_equal(some[index], every[index]) for index in (3, FRAMES - 3))
    with pytest.raises(decode.VideoError, match="hole.mp4"):
        frames_of(path, [3, 5 * GROUP + 3])


@pytest.mark.slow
def test_half_an_hour_trains_on_16k_tokens_in_bounded_memory() -> None:
    """The benchmark as a whole: it compares pictures, takes a step and tells the most memory it had."""
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "benchmarks.long_video", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    step = json.loads(done.stdout)["step"]
    assert step["prompt_tokens"] >= 16_000 and step["grad_norm"] > 0
    assert step["self_check"] < 1e-5
    assert step["peak_rss_mib"] < 6_000
