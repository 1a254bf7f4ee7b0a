"""One way to open a video: the same files are refused with the same words wherever one is decoded."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
import torch
from video_clips import HEIGHT, WIDTH, constant_rate

import data_prep.video_file as video_file
from data_prep.errors import VideoError
from data_prep.probe import probe
from invert_rl.actionvlm.frames import FrameReader
from invert_rl.llavaction.data import SegmentStore
from invert_rl.report.media import media_of
from invert_rl.video.cache_frames import store_one
from invert_rl.video.clip import Clip
from invert_rl.video.load import decode_clip, load_clip
from invert_rl.video.prefetch import Prefetcher
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore

SETTINGS = FrameSettings(fps=2, min_pixels=HEIGHT * WIDTH, max_pixels=2 * HEIGHT * WIDTH)
START = "not a video or damaged from the start"


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder of files that must be refused, beside good ones; some of them name others, one of these a FIFO."""
    folder = tmp_path / "videos"
    folder.mkdir()
    constant_rate(folder / "good.mp4", "libx264")
    constant_rate(folder / "good.ts", "libx264")
    constant_rate(tmp_path / "outside.ts", "libx264")
    os.mkfifo(folder / "fifo.ts")
    hls = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:4\n#EXTINF:4.0,\n{}\n#EXT-X-ENDLIST\n"
    (folder / "playlist.m3u8").write_text(hls.format("good.ts"))
    (folder / "playlist.mp4").write_text(hls.format(tmp_path / "outside.ts"))
    (folder / "hanging.m3u8").write_text(hls.format("fifo.ts"))
    (folder / "concat.mp4").write_text("ffconcat version 1.0\nfile good.ts\n")
    (folder / "hanging.ffconcat").write_text("ffconcat version 1.0\nfile fifo.ts\n")
    (folder / "session.sdp").write_text(
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"
    )
    (folder / "text.mp4").write_text("This is no video.\n" * 200)
    with av.open(str(folder / "picture.png"), "w", format="image2") as out:
        stream = out.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        out.mux(stream.encode(av.VideoFrame(64, 48, "rgb24")))
        out.mux(stream.encode())
    whole = (folder / "good.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    return folder


REFUSED = (
    *("playlist.m3u8", "playlist.mp4", "hanging.m3u8", "concat.mp4", "hanging.ffconcat", "session.sdp"),
    *("text.mp4", "picture.png", "cut.mp4", "fifo.ts"),
)


def check(folder: Path, name: str) -> str:
    record = probe(folder, name)
    assert record.status != "ok"
    return record.reason


def train(folder: Path, name: str) -> str:
    with Prefetcher(FrameStore(folder, SETTINGS), 0) as clips, pytest.raises(VideoError) as caught:
        clips.clip(VideoRef(name))
    return caught.value.reason


def cache(folder: Path, name: str) -> str:
    (reason,) = store_one(FrameStore(folder, SETTINGS, directory=folder.parent / "store"), (VideoRef(name), ()))
    return reason


def report(folder: Path, name: str) -> str:
    return media_of([name], folder, "clips", 10**9)[name].reason.removeprefix(f"{name}: ")


def segment(folder: Path, name: str) -> str:
    with pytest.raises(VideoError) as caught:
        SegmentStore(folder, SETTINGS).clip(VideoRef(name, 0.5, 1.5))
    return caught.value.reason


def end_to_end(folder: Path, name: str) -> str:
    with pytest.raises(VideoError) as caught:
        FrameReader(folder, "", 32).read(name, torch.tensor([0.5]))
    return caught.value.reason


@pytest.mark.parametrize("name", REFUSED)
def test_every_place_refuses_with_the_same_words_and_none_waits(videos: Path, name: str) -> None:
    began = time.monotonic()
    reasons = {way.__name__: way(videos, name) for way in (check, train, cache, report, segment, end_to_end)}
    assert len(set(reasons.values())) == 1, reasons
    assert next(iter(reasons.values())).startswith("not a regular file" if name == "fifo.ts" else START)
    assert time.monotonic() - began < 200


def test_a_video_reaches_all_of_them(videos: Path) -> None:
    assert probe(videos, "good.mp4").status == "ok"
    assert len(load_clip(VideoRef("good.mp4"), SETTINGS, videos).frames) == 8
    assert media_of(["good.mp4"], videos, "clips", 10**9)["good.mp4"].kind == "clip"
    assert FrameReader(videos, ".mp4", 32).read("good", torch.tensor([0.5, 1.0])).shape == (2, 3, 32, 32)


def test_end_to_end_training_follows_no_link_out_of_the_folder(videos: Path, tmp_path: Path) -> None:
    (videos / "link.ts").symlink_to(tmp_path / "outside.ts")
    with pytest.raises(VideoError, match="leads out of the video folder"):
        FrameReader(videos, ".ts", 32).read("link", torch.tensor([0.5]))


class Failing(video_file.VideoFile):
    """A file of a disk that breaks: reading past ``limit`` bytes is an error."""

    limit = 0

    def read(self, size: int = -1) -> bytes | None:
        if self.tell() >= self.limit:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(size)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("part", [(), (2.0, 3.0)])
def test_a_disk_that_breaks_is_the_videos_error(
    videos: Path, monkeypatch: pytest.MonkeyPatch, share: float, part: tuple[float, ...]
) -> None:
    size = (videos / "good.mp4").stat().st_size
    monkeypatch.setattr(video_file, "READ_BUFFER", 1024)
    monkeypatch.setattr(Failing, "limit", int(share * size))
    monkeypatch.setattr(video_file, "VideoFile", Failing)
    try:
        decode_clip(VideoRef("good.mp4", *part), SETTINGS, videos)
    except VideoError as error:
        assert "Input/output error" in error.reason or "Invalid data" in error.reason
    else:
        raise AssertionError("the index is at the end of the file")
    assert probe(videos, "good.mp4").status in ("unreadable", "decode_error")


@pytest.mark.parametrize("offset", [1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_an_index_that_points_nowhere_is_the_videos_error(
    videos: Path, capfd: pytest.CaptureFixture[str], offset: int
) -> None:
    """A seek to a damaged offset was an `OSError` that ended training."""
    data = (videos / "good.mp4").read_bytes()
    place = data.index(b"stco")
    count = int.from_bytes(data[place + 8 : place + 12], "big")
    wide = b"co64" + data[place + 4 : place + 12] + offset.to_bytes(8, "big") * count
    grown = 4 * count
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stco"):
        at = data.index(box) - 4
        data = data[:at] + (int.from_bytes(data[at : at + 4], "big") + grown).to_bytes(4, "big") + data[at + 4 :]
    (videos / "lost.mp4").write_bytes(data[:place] + wide + data[place + 12 + 4 * count :])
    with pytest.raises(VideoError, match=r"^lost.mp4: "):
        decode_clip(VideoRef("lost.mp4"), SETTINGS, videos)
    assert probe(videos, "lost.mp4").status in ("unreadable", "decode_error")
    assert "Traceback" not in capfd.readouterr().err


class DeadlyStore(FrameStore):
    """Stands for a decoder that crashes on one file and never comes back from another."""

    def clip(self, ref: VideoRef) -> Clip:
        if ref.path == "deadly.mp4":
            os.kill(os.getpid(), signal.SIGSEGV)
        if ref.path == "slow.mp4":
            time.sleep(3600)
        return super().clip(ref)


@pytest.mark.slow
def test_without_workers_a_decoder_that_crashes_or_hangs_costs_its_video_only(videos: Path) -> None:
    with Prefetcher(DeadlyStore(videos, SETTINGS), 0) as clips:
        assert len(clips.clip(VideoRef("good.mp4")).frames) == 8
        with pytest.raises(VideoError, match="deadly.mp4: decoding: the process died with exit code -11"):
            clips.clip(VideoRef("deadly.mp4"))
        clips.limit = 2.0
        with pytest.raises(VideoError, match="slow.mp4: decoding: stopped after the limit of 2 s"):
            clips.clip(VideoRef("slow.mp4"))
        clips.limit = 300.0
        assert len(clips.clip(VideoRef("good.mp4", 1.0, 3.0)).frames) == 4
    assert (clips.asked, clips.waited) == (4, 3)  # the part is cut out of what is in memory


def test_decoding_in_this_process_is_there_for_those_who_ask(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("no process was to be started")

    monkeypatch.setattr("invert_rl.video.prefetch.call_apart", refuse)
    monkeypatch.setattr("invert_rl.video.load.call_apart", refuse)
    with Prefetcher(FrameStore(videos, SETTINGS, in_process=True), 0) as clips:
        assert len(clips.clip(VideoRef("good.mp4")).frames) == 8


SLOW_IMPORTS = """
import importlib.abc, sys, time
class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("torchvision", "qwen_vl_utils"):
            time.sleep(3)
sys.meta_path.insert(0, Slow())
"""
SCRIPT = """
import sys
from invert_rl.video.load import load_clip
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings
print(len(load_clip(VideoRef("good.mp4"), FrameSettings(), sys.argv[1], timeout=5.0).frames))
"""


@pytest.mark.slow
def test_imports_take_nothing_of_the_first_videos_time(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(SLOW_IMPORTS)
    paths = os.pathsep.join([str(tmp_path / "path"), *sys.path])
    command = [sys.executable, "-c", SCRIPT, str(videos)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=500)
    assert (done.returncode, done.stdout) == (0, "8\n"), done.stderr
