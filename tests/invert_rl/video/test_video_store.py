"""The frame store: parts of a whole, memory, and the folder that processes share."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from video_clips import HEIGHT, WIDTH, constant_rate, read_indices, write_video

import invert_rl.video.store as store_module
from data_prep.errors import DataError
from invert_rl.video.clip import Clip
from invert_rl.video.disk import Source, entry_path, writing
from invert_rl.video.errors import VideoError
from invert_rl.video.load import load_clip
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore

SETTINGS = FrameSettings(fps=2, min_pixels=HEIGHT * WIDTH, max_pixels=2 * HEIGHT * WIDTH)
WHOLE = VideoRef("clip.mp4")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder with a 12 s video of 10 frames per second."""
    (tmp_path / "videos").mkdir()
    constant_rate(tmp_path / "videos" / "clip.mp4", "libx264", frames=120)
    return tmp_path / "videos"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[VideoRef]:
    """What was decoded, in order."""
    calls: list[VideoRef] = []

    def counted(ref: VideoRef, *args: object) -> Clip:
        calls.append(ref)
        return load_clip(ref, *args)

    monkeypatch.setattr(store_module, "load_clip", counted)
    return calls


def same(first: Clip, second: Clip) -> bool:
    return (
        torch.equal(first.frames, second.frames)
        and np.array_equal(first.timestamps, second.timestamps)
        and (first.start, first.end, first.path) == (second.start, second.end, second.path)
    )


def entries(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_a_part_is_a_run_of_the_whole_videos_frames(videos: Path, decoded: list[VideoRef]) -> None:
    store = FrameStore(videos, SETTINGS)
    whole = store.clip(WHOLE)
    assert read_indices(whole.frames) == list(range(0, 120, 5))
    for start, end, expected in (
        (3.0, 5.0, [30, 35, 40, 45]),  # 2 s are 4 frames at 2 fps
        (3.2, 5.2, [35, 40, 45, 50]),
        (2.9, 5.6, [30, 35, 40, 45, 50, 55]),
        (2.9, 5.3, [30, 35, 40, 45]),  # five frames lie inside; the number must be even
        (9.6, 99.0, [100, 105, 110, 115]),
    ):
        part = store.clip(VideoRef("clip.mp4", start, end))
        assert read_indices(part.frames) == expected
        assert part.timestamps.tolist() == pytest.approx([index / 10 for index in expected])
        assert part.sampled_fps == pytest.approx(2.0)
        assert part.start == pytest.approx(expected[0] / 10)
    assert store.clip(VideoRef("clip.mp4", 0.0, 12.0)) is store.clip(VideoRef("clip.mp4", 0)) is whole
    assert decoded == [WHOLE]


def test_a_part_too_short_for_its_rule_is_decoded_at_the_same_size(videos: Path, decoded: list[VideoRef]) -> None:
    store = FrameStore(videos, FrameSettings(fps=2, total_pixels=24 * 64 * 128))
    whole = store.clip(WHOLE)
    part = store.clip(VideoRef("clip.mp4", 3.0, 4.0))
    assert read_indices(part.frames) == [30, 32, 35, 37]  # 3.25 and 3.75 s lie between two frames
    assert part.frames.shape[1:] == whole.frames.shape[1:]
    assert (part.start, part.end, part.sampled_fps) == (3.0, 4.0, 4.0)
    assert store.clip(VideoRef("clip.mp4", 3.0, 4.0)) is part
    assert decoded == [WHOLE, VideoRef("clip.mp4", 3.0, 4.0)]


def test_a_part_of_a_video_thinned_out_by_max_frames_has_its_own_rate(videos: Path, decoded: list[VideoRef]) -> None:
    store = FrameStore(videos, FrameSettings(fps=2, max_frames=6))
    assert read_indices(store.clip(WHOLE).frames) == list(range(0, 120, 20))
    assert read_indices(store.clip(VideoRef("clip.mp4", 4.0, 7.0)).frames) == list(range(40, 70, 5))


def test_a_part_before_the_first_frame_holds_none(videos: Path) -> None:
    write_video(videos / "late.mp4", "libx264", [4000 + 100 * i for i in range(40)])
    store = FrameStore(videos, SETTINGS)
    with pytest.raises(VideoError, match="holds no frame"):
        store.clip(VideoRef("late.mp4", 0.5, 3.0))
    part = store.clip(VideoRef("late.mp4", 3.0, 6.0))
    assert len(part.frames) == 6
    assert part.timestamps.tolist() == pytest.approx([4.0, 4.0, 4.0, 4.5, 5.0, 5.5])


def test_memory_keeps_the_last_used_and_no_more_than_it_may(videos: Path, decoded: list[VideoRef]) -> None:
    for name in ("b.mp4", "c.mp4"):
        shutil.copy(videos / "clip.mp4", videos / name)
    one = load_clip(WHOLE, SETTINGS, videos).frames.nbytes
    store = FrameStore(videos, SETTINGS, memory_mb=2.5 * one / 1e6)
    for name in ("clip.mp4", "b.mp4", "clip.mp4", "c.mp4", "clip.mp4", "b.mp4"):
        store.clip(VideoRef(name))
    assert [ref.path for ref in decoded] == ["clip.mp4", "b.mp4", "c.mp4", "b.mp4"]
    decoded.clear()
    nothing_kept = FrameStore(videos, SETTINGS, memory_mb=0)
    assert same(nothing_kept.clip(WHOLE), nothing_kept.clip(WHOLE))
    assert len(decoded) == 2


def test_errors_are_not_kept(videos: Path) -> None:
    store = FrameStore(videos, SETTINGS)
    for _ in range(2):
        with pytest.raises(VideoError, match="later.mp4: no such file"):
            store.clip(VideoRef("later.mp4"))
    shutil.copy(videos / "clip.mp4", videos / "later.mp4")
    assert len(store.clip(VideoRef("later.mp4")).frames) == 24


@pytest.mark.parametrize("directory", [None, "store"])
def test_another_video_under_the_same_name_is_not_taken_for_the_first(
    videos: Path, tmp_path: Path, directory: str | None
) -> None:
    store = FrameStore(videos, SETTINGS, memory_mb=0, directory=directory and tmp_path / directory)
    first = store.clip(WHOLE)
    os.utime(videos / "clip.mp4", (1, 1))
    assert same(store.clip(WHOLE), first)  # copied again, the same video
    constant_rate(videos / "other.mp4", "libx264", frames=60)
    (videos / "other.mp4").replace(videos / "clip.mp4")
    with pytest.raises(VideoError, match=r"clip.mp4: its file has changed in mid-run: \d+ bytes before, \d+ now"):
        store.clip(WHOLE)
    for later in (pickle.loads(pickle.dumps(store)), FrameStore(videos, SETTINGS)):
        assert len(later.clip(WHOLE).frames) == 12  # a run that begins with the second one


def test_a_store_travels_to_workers_without_its_memory(videos: Path, tmp_path: Path) -> None:
    store = FrameStore(videos, SETTINGS, directory=tmp_path / "store")
    whole = store.clip(WHOLE)
    data = pickle.dumps(store)
    assert len(data) < 2000
    assert same(pickle.loads(data).clip(WHOLE), whole)


def test_frames_on_disk_equal_the_decoded_ones(videos: Path, tmp_path: Path, decoded: list[VideoRef]) -> None:
    refs = [WHOLE, VideoRef("clip.mp4", 3.0, 5.0), VideoRef("clip.mp4", 3.0, 4.0)]
    plain = FrameStore(videos, SETTINGS)
    expected = [plain.clip(ref) for ref in refs]
    directory = tmp_path / "store"
    for _ in range(2):  # written, then read by another store
        store = FrameStore(videos, SETTINGS, directory=directory)
        assert all(same(store.clip(ref), clip) for ref, clip in zip(refs, expected, strict=True))
    assert len(decoded) == 4
    assert len(entries(directory)) == 2  # the part of 2 s is cut out of the whole
    other = FrameStore(videos, FrameSettings(fps=1), directory=directory)
    assert len(other.clip(WHOLE).frames) == 12
    assert len(entries(directory)) == 3


def test_a_changed_video_is_decoded_again_and_a_copied_one_is_not(
    videos: Path, tmp_path: Path, decoded: list[VideoRef], caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "store"
    FrameStore(videos, SETTINGS, directory=directory).clip(WHOLE)
    os.utime(videos / "clip.mp4", (1, 1))  # as a copy to another disk has
    FrameStore(videos, SETTINGS, directory=directory).clip(WHOLE)
    assert len(decoded) == 1 and not caplog.records
    data = bytearray((videos / "clip.mp4").read_bytes())
    data[-1] ^= 1  # the same size, but not the same
    (videos / "clip.mp4").write_bytes(data)
    with caplog.at_level(logging.WARNING):
        FrameStore(videos, SETTINGS, directory=directory).clip(WHOLE)
    assert len(decoded) == 2 and "clip.mp4: the video has changed" in caplog.text
    constant_rate(videos / "clip.mp4", "libx264", frames=60)
    assert len(FrameStore(videos, SETTINGS, directory=directory).clip(WHOLE).frames) == 12
    assert len(decoded) == 3 and len(entries(directory)) == 1
    (videos / "clip.mp4").rename(videos / "other.mp4")
    with pytest.raises(VideoError, match="no such file"):
        FrameStore(videos, SETTINGS, directory=directory).clip(WHOLE)


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_entry_is_made_again(
    videos: Path, tmp_path: Path, decoded: list[VideoRef], damage: bytes | None
) -> None:
    directory = tmp_path / "store"
    whole = FrameStore(videos, SETTINGS, directory=directory).clip(WHOLE)
    (entry,) = entries(directory)
    entry.write_bytes(entry.read_bytes()[:-1000] if damage is None else damage)
    for _ in range(2):
        assert same(FrameStore(videos, SETTINGS, directory=directory).clip(WHOLE), whole)
    assert len(decoded) == 2


def test_an_entry_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.safetensors"
    with pytest.raises(RuntimeError), writing(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert entries(tmp_path) == []
    with writing(path) as file:
        pass
    assert entries(tmp_path) == []
    with writing(path) as file:
        file.write(b"all")
        assert not path.exists()
    assert entries(tmp_path) == [path] and path.read_bytes() == b"all"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.ENOLCK])
def test_a_store_that_cannot_be_written_is_no_reason_to_stop(
    videos: Path,
    tmp_path: Path,
    decoded: list[VideoRef],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
) -> None:
    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    directory = tmp_path / "store"
    monkeypatch.setattr(os, "fsync", full)
    store = FrameStore(videos, SETTINGS, memory_mb=0, directory=directory)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert len(store.clip(WHOLE).frames) == 24
    assert len(decoded) == 3  # the frames that could not be written are used all the same
    assert store.write_error is not None and store.write_error.errno == code
    assert len(caplog.records) == 1 and os.strerror(code) in caplog.text
    assert entries(directory) == []


def test_a_write_that_the_system_cuts_short_leaves_nothing(videos: Path, tmp_path: Path) -> None:
    """A real failure in the middle of writing: a limit of 100 kB on the size of files."""
    script = (
        "import resource, sys\n"
        "from invert_rl.video.store import FrameStore, FrameSettings, VideoRef\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "store = FrameStore(sys.argv[1], FrameSettings(), directory=sys.argv[2], in_process=True)\n"
        "assert len(store.clip(VideoRef('clip.mp4')).frames) == 24\n"
        "assert store.write_error is not None\n"
    )
    directory = tmp_path / "store"
    subprocess.run([sys.executable, "-c", script, videos, directory], check=True, timeout=300)
    assert entries(directory) == []


def _hold(path: Path, ready: multiprocessing.synchronize.Event) -> None:
    with writing(path) as file:
        file.write(b"half of it")
        file.flush()
        ready.set()
        time.sleep(60)


def test_a_killed_writer_is_replaced(videos: Path, tmp_path: Path, decoded: list[VideoRef]) -> None:
    directory = tmp_path / "store"
    path = entry_path(directory, SETTINGS, WHOLE)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    writer = context.Process(target=_hold, args=(path, ready))
    writer.start()
    assert ready.wait(300)
    assert [entry.suffix for entry in entries(directory)] == [".partial"]
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert [entry.suffix for entry in entries(directory)] == [".partial"]
    FrameStore(videos, SETTINGS, directory=directory).clip(WHOLE)
    assert entries(directory) == [path]
    assert len(FrameStore(videos, SETTINGS, directory=directory).clip(WHOLE).frames) == 24
    assert len(decoded) == 1


def _clip_in_a_process(
    store: FrameStore, ready: multiprocessing.synchronize.Semaphore, start: object, count: object
) -> None:
    def counted(*args: object) -> Clip:
        with count.get_lock():
            count.value += 1
        time.sleep(0.05)
        return load_clip(*args)

    store_module.load_clip = counted
    ready.release()
    start.wait(300)
    for name in ("clip.mp4", "b.mp4"):
        assert len(store.clip(VideoRef(name)).frames) == 24


@pytest.mark.slow
def test_processes_that_want_the_same_frames_decode_them_once(videos: Path, tmp_path: Path) -> None:
    shutil.copy(videos / "clip.mp4", videos / "b.mp4")
    directory = tmp_path / "store"
    context = multiprocessing.get_context("spawn")  # a fork would inherit other tests' encoder threads
    ready, start, count = context.Semaphore(0), context.Event(), context.Value("i", 0)
    store = FrameStore(videos, SETTINGS, directory=directory)
    processes = [context.Process(target=_clip_in_a_process, args=(store, ready, start, count)) for _ in range(2)]
    for process in processes:
        process.start()
    assert all(ready.acquire(timeout=300) for _ in processes)
    start.set()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    assert count.value == 2
    assert [entry.suffix for entry in entries(directory)] == [".safetensors"] * 2


def test_source_of_something_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    with pytest.raises(VideoError, match="fifo.mp4: not a regular file"):
        Source(tmp_path / "fifo.mp4", "fifo.mp4")


@pytest.mark.parametrize("place", [0.3, 0.9])
def test_a_flipped_byte_of_stored_frames_is_noticed(
    videos: Path, tmp_path: Path, decoded: list[VideoRef], caplog: pytest.LogCaptureFixture, place: float
) -> None:
    directory = tmp_path / "store"
    whole = FrameStore(videos, SETTINGS, directory=directory).clip(WHOLE).frames.clone()
    path = entry_path(directory, SETTINGS, WHOLE)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x40
    path.write_bytes(content)
    again = FrameStore(videos, SETTINGS, directory=directory).clip(WHOLE)
    assert "are damaged (their checksum is another one); decoding it again" in caplog.text
    assert torch.equal(again.frames, whole)
    assert len(decoded) == 2
    assert torch.equal(FrameStore(videos, SETTINGS, directory=directory).clip(WHOLE).frames, whole)
    assert len(decoded) == 2


def test_a_source_that_cannot_be_hashed_is_the_videos_error_and_not_the_stores(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("invert_rl.video.disk._sha256", broken)
    store = FrameStore(videos, SETTINGS, directory=tmp_path / "store", in_process=True)
    with pytest.raises(VideoError, match=r"clip.mp4: cannot be read \(Input/output error\)"):
        store.clip(WHOLE)
    assert store.write_error is None


@pytest.mark.parametrize("lost", ["gone", "empty"])
def test_a_lost_video_folder_is_no_broken_video(tmp_path, lost):
    """A mount that goes away in the middle of a run must not have every video left out of it."""
    videos = tmp_path / "videos"
    videos.mkdir()
    constant_rate(videos / "clip.mp4", "libx264", frames=30)
    store = FrameStore(videos, SETTINGS)
    shutil.rmtree(videos)
    if lost == "empty":
        videos.mkdir()
    with pytest.raises(DataError, match="the video folder is gone or empty") as raised:
        store.clip(WHOLE)
    assert not isinstance(raised.value, VideoError)
