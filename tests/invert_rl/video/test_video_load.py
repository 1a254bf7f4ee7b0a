"""Frames against their own content: every picture says its index, so times are checked from outside."""

from __future__ import annotations

import os
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from video_clips import (
    BLOCK,
    HEIGHT,
    WIDTH,
    constant_rate,
    picture,
    read_indices,
    set_display_matrix,
    write_video,
)

from data_prep.decode import list_frames
from invert_rl.video.errors import VideoError
from invert_rl.video.load import load_clip
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings

SETTINGS = FrameSettings(fps=5, min_pixels=HEIGHT * WIDTH, max_pixels=2 * HEIGHT * WIDTH)
X264 = {"x264-params": "keyint=12:bframes=3:open-gop=1:scenecut=0"}
X265 = {"x265-params": "keyint=12:bframes=3:log-level=none"}
GOP = {"g": "12"}
FORMATS = [
    ("libx264", "mp4", X264),
    ("libx265", "mp4", X265),
    ("libsvtav1", "mp4", GOP),
    ("libvpx-vp9", "mp4", GOP),
    ("mpeg4", "mp4", {**GOP, "bf": "2"}),
    ("libx264", "mkv", X264),
    ("libx265", "mkv", X265),
    ("libvpx-vp9", "mkv", GOP),
    ("libsvtav1", "mkv", GOP),
    ("libvpx-vp9", "webm", GOP),
    ("libsvtav1", "webm", GOP),
    ("libx264", "avi", X264),
    ("mpeg4", "avi", {**GOP, "bf": "2"}),
    ("mjpeg", "avi", {}),
    ("libx264", "mov", X264),
    ("libx265", "mov", X265),
    ("libx264", "ts", X264),
]


def indices_at(clip_times: np.ndarray, rate: int) -> list[int]:
    return np.rint(clip_times * rate).astype(int).tolist()


@pytest.mark.parametrize(("codec", "extension", "options"), FORMATS, ids=[f"{c}-{e}" for c, e, _ in FORMATS])
def test_pictures_and_times_agree_in_every_container(
    tmp_path: Path, codec: str, extension: str, options: dict[str, str]
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot encode {codec}")
    constant_rate(tmp_path / f"clip.{extension}", codec, codec_options=options)
    clip = load_clip(VideoRef(f"clip.{extension}"), SETTINGS, tmp_path)
    assert (clip.start, clip.end) == (0, pytest.approx(4.0, abs=0.002))
    assert read_indices(clip.frames) == indices_at(clip.timestamps, 10) == list(range(0, 40, 2))
    assert np.abs(clip.timestamps - np.arange(20) * 0.2).max() < 0.0011

    # A part is decoded from the key frame before it; 2.3 s lies behind an open GOP's border.
    for start, end, count in ((2.3, 3.35, 4), (1.0, 2.0, 4), (3.1, 99.0, 4), (0.0, 2.0, 10)):
        part = load_clip(VideoRef(f"clip.{extension}", start, end), SETTINGS, tmp_path)
        assert (part.start, part.end) == (start, pytest.approx(min(end, 4.0), abs=0.002))
        assert len(part.frames) == count
        assert read_indices(part.frames) == indices_at(part.timestamps, 10)
        targets = part.start + np.arange(count) * (part.end - part.start) / count
        assert np.abs(part.timestamps - targets).max() <= 0.05 + 0.001  # half a frame


def test_variable_frame_rate_takes_the_nearest_frame(tmp_path: Path) -> None:
    pts = [0, 40, 80, 500, 900, 980, 1010, 1600, 1700, 2900, 2950, 3000]  # milliseconds
    write_video(tmp_path / "vfr.mkv", "libx264", pts)
    clip = load_clip(VideoRef("vfr.mkv"), FrameSettings(fps=2), tmp_path)
    targets = np.arange(len(clip.frames)) * clip.end / len(clip.frames)
    nearest = [int(np.argmin(np.abs(np.array(pts) / 1000 - target))) for target in targets]
    assert read_indices(clip.frames) == nearest
    assert clip.timestamps.tolist() == pytest.approx([pts[index] / 1000 for index in nearest])


def test_first_frame_later_than_zero_keeps_its_time(tmp_path: Path) -> None:
    write_video(tmp_path / "late.mp4", "libx264", [1000 + 100 * i for i in range(30)])
    clip = load_clip(VideoRef("late.mp4"), FrameSettings(fps=5), tmp_path)
    assert (clip.start, clip.end) == (0, pytest.approx(4.0, abs=0.002))
    # Times 0 to 0.8 s have no frame of their own: the first stands in.
    assert read_indices(clip.frames) == [0] * 5 + list(range(0, 30, 2))
    assert clip.timestamps.tolist() == pytest.approx([1.0] * 5 + [1 + 0.2 * i for i in range(15)])


@pytest.mark.parametrize(
    ("name", "codec", "container_options"),
    [
        ("live.mkv", "libx264", {"live": "1"}),
        ("live.webm", "libvpx-vp9", {"live": "1"}),
        ("fragments.mp4", "libx264", {"movflags": "delay_moov+frag_keyframe"}),
    ],
)
def test_no_duration_in_the_header(tmp_path: Path, name: str, codec: str, container_options: dict[str, str]) -> None:
    path = constant_rate(tmp_path / name, codec, container_options=container_options)
    info = list_frames(path)
    assert info.frames == 40
    assert info.duration == pytest.approx(4.0, abs=0.002)
    clip = load_clip(VideoRef(name), SETTINGS, tmp_path)
    assert read_indices(clip.frames) == list(range(0, 40, 2))


# a, b, c, d of the display matrix, and what must have been stored for the picture to look upright.
TURNS = {
    "as it is": ((1, 0, 0, 1), lambda image: image),
    "90 clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, 1)),
    "180": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "90 counter-clockwise": ((0, -1, 1, 0), lambda image: np.rot90(image, -1)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
}


@pytest.mark.parametrize("turn", TURNS)
def test_rotation_metadata_turns_the_picture_upright(tmp_path: Path, turn: str) -> None:
    matrix, store = TURNS[turn]
    pictures = [np.ascontiguousarray(store(picture(index))) for index in range(11, 21)]
    path = write_video(tmp_path / "phone.mp4", "libx264", [100 * i for i in range(10)], pictures=pictures)
    set_display_matrix(path, *matrix)
    clip = load_clip(VideoRef("phone.mp4"), FrameSettings(fps=10, min_pixels=4 * 28 * 28), tmp_path)
    assert clip.frames.shape[2] < clip.frames.shape[3]
    assert read_indices(clip.frames) == list(range(11, 21))


def test_rotation_agrees_with_ffmpegs_angle_on_phone_videos() -> None:
    folder = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "videos" / "files"
    if not folder.is_dir():
        pytest.skip("the real videos are not here")
    settings = FrameSettings(min_pixels=28 * 28, max_pixels=4 * 28 * 28)
    for name in ("decord_video_90.mov", "decord_video_180.mov", "decord_video_270.mov"):
        with av.open(str(folder / name)) as container:
            frame = next(container.decode(video=0))
            expected = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
        clip = load_clip(VideoRef(name), settings, folder)
        shrunk = torch.nn.functional.adaptive_avg_pool2d(
            torch.from_numpy(expected.copy()).permute(2, 0, 1).float(), clip.frames.shape[2:]
        )
        assert (clip.frames[0].float() - shrunk).abs().mean() < 6


def test_several_streams_and_audio_are_no_matter(tmp_path: Path) -> None:
    """A cover picture before the video and an audio track beside it: the video is read."""
    path = tmp_path / "streams.mkv"
    with av.open(str(path), "w") as container:
        small = container.add_stream("mjpeg", rate=10)
        small.height, small.width, small.pix_fmt = 16, 16, "yuvj420p"
        large = container.add_stream("libx264", rate=10)
        large.height, large.width, large.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        audio = container.add_stream("aac", rate=16000)
        for index in range(20):
            for stream, image in ((small, np.zeros((16, 16, 3), np.uint8)), (large, picture(index))):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 10)
                container.mux(stream.encode(frame))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 160000), np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = 16000, 0, Fraction(1, 16000)
        container.mux(audio.encode(sound))  # 10 s of sound to 2 s of pictures
        for stream in (small, large, audio):
            container.mux(stream.encode())
    clip = load_clip(VideoRef("streams.mkv"), SETTINGS, tmp_path)
    assert clip.end == pytest.approx(2.0, abs=0.002)
    assert read_indices(clip.frames) == list(range(0, 20, 2))


def test_one_frame_is_shown_twice(tmp_path: Path) -> None:
    constant_rate(tmp_path / "still.mp4", "libx264", frames=1)
    clip = load_clip(VideoRef("still.mp4"), FrameSettings(), tmp_path)
    assert len(clip.frames) == 2 and torch.equal(clip.frames[0], clip.frames[1])
    assert clip.timestamps.tolist() == [0, 0]


@pytest.mark.parametrize(("frames", "expected"), [(2, [0, 1]), (3, [0, 1]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 4])])
def test_short_clip_gives_what_it_has_in_pairs(tmp_path: Path, frames: int, expected: list[int]) -> None:
    constant_rate(tmp_path / "short.mp4", "libx264", frames=frames)
    clip = load_clip(VideoRef("short.mp4"), FrameSettings(), tmp_path)
    assert len(clip.frames) == len(expected)
    if frames != 3:  # 3 frames, 2 shown for 0 and 0.15 s: the second is a tie
        assert read_indices(clip.frames) == expected


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (5.0, 6.0, "starts after the video's end at 4"),
        (2.0, 2.0, "0 <= start < end"),
        (-1.0, 2.0, "0 <= start < end"),
        (float("nan"), 2.0, "0 <= start < end"),
        (2.01, 2.09, "holds no frame"),
    ],
)
def test_bad_windows_are_refused(tmp_path: Path, start: float, end: float, reason: str) -> None:
    constant_rate(tmp_path / "clip.mp4", "libx264")
    with pytest.raises(VideoError, match=reason) as caught:
        load_clip(VideoRef("clip.mp4", start, end), SETTINGS, tmp_path)
    assert caught.value.path == f"clip.mp4 [{start:g}, {end:g}]"  # the video itself is good


def test_names_cannot_leave_the_folder_or_reach_a_protocol(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    constant_rate(tmp_path / "outside.mp4", "libx264", frames=4)
    constant_rate(root / "inside.mp4", "libx264", frames=4)
    (root / "out.mp4").symlink_to(tmp_path / "outside.mp4")
    (root / "in.mp4").symlink_to(root / "inside.mp4")
    (root / "loop.mp4").symlink_to(root / "loop.mp4")
    (tmp_path / "link").symlink_to(root)
    for name in (
        "../outside.mp4",
        str(tmp_path / "outside.mp4"),
        "http://localhost/a.mp4",
        "a/../../outside.mp4",
    ):
        with pytest.raises(VideoError, match="relative path inside the video folder"):
            load_clip(VideoRef(name), SETTINGS, root)
    with pytest.raises(VideoError, match="leads out of the video folder"):
        load_clip(VideoRef("out.mp4"), SETTINGS, root)
    with pytest.raises(VideoError):
        load_clip(VideoRef("loop.mp4"), SETTINGS, root)
    for name in ("concat:inside.mp4|inside.mp4", "pipe:0", "file:inside.mp4", "data:video", "missing.mp4"):
        with pytest.raises(VideoError, match="no such file"):
            load_clip(VideoRef(name), SETTINGS, root)
    for folder in (root, tmp_path / "link"):
        for name in ("inside.mp4", "in.mp4"):
            assert len(load_clip(VideoRef(name), SETTINGS, folder).frames) == 4


def test_playlists_open_nothing_else(tmp_path: Path) -> None:
    constant_rate(tmp_path / "secret.ts", "libx264")
    constant_rate(tmp_path / "secret.mp4", "libx264")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    (tmp_path / "hls.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4.0,\nsecret.ts\n#EXT-X-ENDLIST\n")
    for name in ("list.mp4", "hls.mp4"):
        with pytest.raises(VideoError):
            load_clip(VideoRef(name), SETTINGS, tmp_path)


def test_only_regular_files_are_read_and_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(VideoError):
        load_clip(VideoRef("absent.mp4"), SETTINGS, tmp_path)  # starts the process that decodes
    started = time.monotonic()
    reasons = {}
    for name in ("fifo.mp4", "folder.mp4", "empty.mp4", "text.mp4"):
        with pytest.raises(VideoError) as caught:
            load_clip(VideoRef(name), SETTINGS, tmp_path)
        reasons[name] = caught.value.reason
        assert str(caught.value) == f"{name}: {caught.value.reason}"
    assert time.monotonic() - started < 2
    assert reasons["fifo.mp4"] == "not a regular file but a named pipe"
    assert reasons["folder.mp4"] == "not a regular file but a folder"
    assert reasons["empty.mp4"] == "empty file"
    assert "not a video" in reasons["text.mp4"]


def test_the_timeout_is_kept(tmp_path: Path) -> None:
    constant_rate(tmp_path / "clip.mp4", "libx264")
    with pytest.raises(VideoError, match="not decoded within 0 s"):
        load_clip(VideoRef("clip.mp4"), SETTINGS, tmp_path, timeout=0)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.8])
@pytest.mark.parametrize(("name", "codec"), [("cut.mkv", "libx264"), ("cut.webm", "libvpx-vp9"), ("cut.avi", "mjpeg")])
def test_a_truncated_file_is_never_a_shorter_video(tmp_path: Path, name: str, codec: str, keep: float) -> None:
    """Cut anywhere: an error, unless what is left is all there is to see."""
    noise = np.random.default_rng(0).integers(0, 255, (60, HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = write_video(tmp_path / name, codec, list(range(60)), Fraction(1, 10), pictures=list(noise))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(VideoError, match="truncated|stopped|damaged|could be decoded"):
        load_clip(VideoRef(name), SETTINGS, tmp_path)


def test_damage_in_the_middle_is_an_error_for_the_whole_video(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = write_video(tmp_path / "hole.mp4", "mpeg4", list(range(40)), Fraction(1, 10), pictures=list(noise))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 4] = bytes(len(data) // 4)
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"hole.mp4: (decoding stopped after \d+ of 40|only \d+ of 40)"):
        load_clip(VideoRef("hole.mp4"), SETTINGS, tmp_path)


def test_frames_are_those_of_qwen_vl_utils(tmp_path: Path) -> None:
    """Size and pixels equal `fetch_video` of qwen-vl-utils, given the same pictures."""
    from PIL import Image
    from qwen_vl_utils.vision_process import smart_resize
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import resize

    path = constant_rate(tmp_path / "clip.mp4", "libx264")
    settings = FrameSettings(fps=2, total_pixels=8 * 64 * 28 * 28, min_pixels=16 * 28 * 28)
    clip = load_clip(VideoRef("clip.mp4"), settings, tmp_path)
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    pictures = torch.stack([torch.from_numpy(decoded[index]).permute(2, 0, 1) for index in range(0, 40, 5)])
    most = max(min(768 * 28 * 28, settings.total_pixels / 8 * 2), int(settings.min_pixels * 1.05))
    size = smart_resize(HEIGHT, WIDTH, 28, settings.min_pixels, most)
    expected = resize(pictures, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(clip.frames, expected)
    assert Image.fromarray(clip.frames[3].permute(1, 2, 0).numpy()).size == (size[1], size[0])
    assert BLOCK * 4 == WIDTH


def test_tags_in_another_encoding_are_no_matter(tmp_path: Path) -> None:
    path = constant_rate(tmp_path / "tags.mkv", "libx264", frames=4)
    data = path.read_bytes()
    assert b"Lavf" in data
    path.write_bytes(data.replace(b"Lavf", b"\xe9\xe0\xff\xfe"))
    assert len(load_clip(VideoRef("tags.mkv"), SETTINGS, tmp_path).frames) == 4


def test_mutated_files_load_or_say_why(tmp_path: Path) -> None:
    """Whatever bytes a file holds: frames or a `VideoError`, nothing else."""
    rng = np.random.default_rng(0)
    sources = [
        constant_rate(tmp_path / "good.mp4", "libx264").read_bytes(),
        constant_rate(tmp_path / "good.mkv", "mpeg4").read_bytes(),
        constant_rate(tmp_path / "good.avi", "mjpeg").read_bytes(),
    ]
    outcomes = set()
    for _ in range(150):
        data = bytearray(sources[rng.integers(len(sources))])
        places = rng.integers(len(data) if rng.random() < 0.5 else 1500, size=rng.integers(1, 20))
        for place in places:
            data[place] = rng.integers(256)
        (tmp_path / "mutated").write_bytes(data)
        try:
            clip = load_clip(VideoRef("mutated"), SETTINGS, tmp_path, timeout=10)
            assert len(clip.frames) % 2 == 0 and np.isfinite(clip.timestamps).all()
            outcomes.add("frames")
        except VideoError:
            outcomes.add("error")
    assert outcomes == {"frames", "error"}
