"""Decoding ahead: the frames of the store, its errors, workers that hang or are killed, bounded memory."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from video_clips import HEIGHT, WIDTH, constant_rate

import data_prep.workers as workers_module
from invert_rl.video.clip import Clip
from invert_rl.video.errors import VideoError
from invert_rl.video.prefetch import Prefetcher
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore

SETTINGS = FrameSettings(fps=2, min_pixels=HEIGHT * WIDTH, max_pixels=2 * HEIGHT * WIDTH)

TIMES = np.arange(24) / 2


class SlowStore(FrameStore):
    """Makes clips without decoding and notes each; one named slow… takes for ever, deadly… kills its process."""

    def check_file(self, path: str) -> None:
        """Its clips need no files."""

    def clip(self, ref: VideoRef) -> Clip:
        with (self.root / "decoded").open("a") as file:
            file.write(f"{ref.path} {os.getpid()}\n")
        if ref.path.startswith("slow"):
            time.sleep(3600)
        if ref.path.startswith("deadly"):
            os.abort()
        return self.remembered(ref) or Clip(torch.zeros(24, 3, 28, 28, dtype=torch.uint8), TIMES, 0.0, 12.0, ref.path)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder with a 12 s video of 10 frames per second, some copies and a broken one."""
    constant_rate(tmp_path / "a.mp4", "libx264", frames=120)
    for name in ("b.mp4", "c.mp4", "d.mp4"):
        (tmp_path / name).write_bytes((tmp_path / "a.mp4").read_bytes())
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    return tmp_path


@pytest.fixture
def prefetch() -> Iterator[Callable[..., Prefetcher]]:
    """Build a prefetcher that is closed at the end."""
    made: list[Prefetcher] = []

    def build(store: FrameStore, workers: int) -> Prefetcher:
        made.append(Prefetcher(store, workers))
        return made[-1]

    yield build
    for prefetcher in made:
        prefetcher.close()


def until(condition: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def pids(prefetcher: Prefetcher) -> list[int]:
    return [worker.process.pid for worker, _ in prefetcher._team if worker.process is not None]


def decoded(folder: Path) -> list[str]:
    path = folder / "decoded"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def test_frames_and_errors_are_those_of_the_store(videos: Path, prefetch: Callable[..., Prefetcher]) -> None:
    parts = [VideoRef("a.mp4", 3.0, 5.0), VideoRef("b.mp4", 3.0, 4.0), VideoRef("c.mp4", 0, 12)]
    refs = [VideoRef("d.mp4"), *parts, VideoRef("broken.mp4"), VideoRef("../a.mp4"), VideoRef("a.mp4", 50.0, 60.0)]
    plain, ahead = FrameStore(videos, SETTINGS), prefetch(FrameStore(videos, SETTINGS), 2)
    ahead.want(refs)
    for ref in [*refs, *refs]:  # the second time from memory, where that has it
        try:
            expected = plain.clip(ref)
        except VideoError as error:
            with pytest.raises(VideoError) as found:
                ahead.clip(ref)
            assert str(found.value) == str(error)
            continue
        clip = ahead.clip(ref)
        assert torch.equal(clip.frames, expected.frames)
        assert np.array_equal(clip.timestamps, expected.timestamps)
        assert (clip.start, clip.end, clip.path) == (expected.start, expected.end, expected.path)
    assert ahead.asked == 14


def test_what_is_wanted_is_there_before_it_is_asked_for(videos: Path, prefetch: Callable[..., Prefetcher]) -> None:
    ahead = prefetch(SlowStore(videos, SETTINGS), 1)
    ahead.want([VideoRef("b.mp4"), VideoRef("c.mp4")])
    until(lambda: len(ahead._ready) == 2)
    assert str(os.getpid()) not in (videos / "decoded").read_text()
    ahead.clip(VideoRef("c.mp4"))
    assert (ahead.asked, ahead.waited) == (1, 0)
    ahead.want([VideoRef("d.mp4")])  # b is no longer wanted
    ahead.clip(VideoRef("d.mp4"))
    assert not ahead._ready
    ahead.clip(VideoRef("a.mp4"))  # nobody wanted it
    assert decoded(videos) == ["b.mp4", "c.mp4", "d.mp4", "a.mp4"]


def test_a_clip_that_hangs_is_given_up_and_the_rest_goes_on(videos: Path, prefetch: Callable[..., Prefetcher]) -> None:
    ahead = prefetch(SlowStore(videos, SETTINGS), 1)
    ahead.clip(VideoRef("a.mp4"))
    ahead.limit = 3.0
    began = time.monotonic()
    with pytest.raises(VideoError, match=r"^slow.mp4: decoding: stopped after the limit of 3 s; raise the"):
        ahead.clip(VideoRef("slow.mp4"))
    assert time.monotonic() - began < 60
    ahead.limit = 300.0
    assert len(ahead.clip(VideoRef("b.mp4")).frames) == 24
    assert prefetch(FrameStore(videos, SETTINGS, timeout=5.0), 1).limit == 70
    assert prefetch(FrameStore(videos, SETTINGS, timeout=None), 1).limit is None


def test_a_clip_that_kills_its_worker_twice_is_given_up(
    videos: Path, prefetch: Callable[..., Prefetcher], caplog: pytest.LogCaptureFixture
) -> None:
    ahead = prefetch(SlowStore(videos, SETTINGS), 1)
    ahead.want([VideoRef("deadly.mp4"), VideoRef("b.mp4")])
    with pytest.raises(VideoError, match=r"^deadly.mp4: decoding: the process died with exit code -6$"):
        ahead.clip(VideoRef("deadly.mp4"))
    assert decoded(videos).count("deadly.mp4") == 2
    assert "deadly.mp4: a worker process that decoded it is gone" in caplog.text
    assert len(ahead.clip(VideoRef("b.mp4")).frames) == 24


def test_a_killed_worker_costs_no_clip(videos: Path, prefetch: Callable[..., Prefetcher]) -> None:
    ahead = prefetch(SlowStore(videos, SETTINGS), 1)
    ahead.clip(VideoRef("a.mp4"))
    os.kill(pids(ahead)[0], signal.SIGKILL)
    assert len(ahead.clip(VideoRef("b.mp4")).frames) == 24


def test_a_changed_video_is_noticed_by_a_worker_that_never_saw_the_first(
    videos: Path, prefetch: Callable[..., Prefetcher]
) -> None:
    ahead = prefetch(FrameStore(videos, SETTINGS, memory_mb=0), 1)
    ahead.clip(VideoRef("a.mp4"))
    os.kill(pids(ahead)[0], signal.SIGKILL)
    constant_rate(videos / "a.mp4", "libx264", frames=60)
    with pytest.raises(VideoError, match="a.mp4: its file has changed in mid-run"):
        ahead.clip(VideoRef("a.mp4"))


@pytest.mark.slow
def test_a_stopped_worker_is_replaced(videos: Path, prefetch: Callable[..., Prefetcher]) -> None:
    ahead = prefetch(SlowStore(videos, SETTINGS), 1)
    ahead.clip(VideoRef("a.mp4"))
    os.kill(pids(ahead)[0], signal.SIGSTOP)
    ahead.limit = 3.0
    with pytest.raises(VideoError, match="limit of 3 s"):
        ahead.clip(VideoRef("b.mp4"))
    ahead.limit = 300.0
    assert len(ahead.clip(VideoRef("c.mp4")).frames) == 24


def test_without_any_worker_process_clips_are_decoded_here(
    videos: Path,
    prefetch: Callable[..., Prefetcher],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(workers_module, "CHILD", "raise SystemExit(3)  # {path} {pipe}")
    ahead = prefetch(FrameStore(videos, SETTINGS), 1)
    ahead.want([VideoRef("a.mp4")])
    with caplog.at_level(logging.WARNING):
        assert len(ahead.clip(VideoRef("a.mp4")).frames) == 24
    assert "did not start (exit code 3); decoding in the main process" in caplog.text


def test_waiting_clips_take_bounded_memory(videos: Path, prefetch: Callable[..., Prefetcher]) -> None:
    one = 24 * 3 * 28 * 28
    ahead = prefetch(SlowStore(videos, SETTINGS, memory_mb=1.5 * one / 1e6), 1)
    names = [f"{number}.mp4" for number in range(6)]
    ahead.want(VideoRef(name) for name in names)
    until(lambda: len(ahead._ready) == 2)
    time.sleep(1.0)
    assert decoded(videos) == names[:2]  # one more than there is room for
    ahead.clip(VideoRef("5.mp4"))  # what is waited for comes at once
    assert decoded(videos) == [*names[:2], "5.mp4"]
    for name in names[:5]:
        ahead.clip(VideoRef(name))
    assert sorted(decoded(videos)) == names


def test_nothing_is_kept_twice_in_memory(videos: Path, prefetch: Callable[..., Prefetcher]) -> None:
    ahead = prefetch(SlowStore(videos, SETTINGS), 1)
    ahead.want([VideoRef("b.mp4")])
    first = ahead.clip(VideoRef("b.mp4"))
    assert not ahead._ready
    ahead.want([VideoRef("b.mp4")])
    assert not ahead._wanted
    assert ahead.store.remembered(VideoRef("b.mp4")) is first


def test_closing_ends_the_processes_also_of_a_hanging_one(videos: Path) -> None:
    with Prefetcher(SlowStore(videos, SETTINGS), 2) as ahead:
        ahead.clip(VideoRef("a.mp4"))
        ahead.want([VideoRef("slow.mp4")])
        until(lambda: "slow.mp4" in decoded(videos))
        began, processes = time.monotonic(), pids(ahead)
    assert time.monotonic() - began < 20
    assert processes
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
def test_a_script_without_a_main_guard_and_without_closing_ends(videos: Path) -> None:
    """Workers import the package and not the script; they end with the process that started them."""
    script = videos / "script.py"
    script.write_text(
        "import sys\n"
        "from invert_rl.video.prefetch import Prefetcher\n"
        "from invert_rl.video.store import FrameStore, FrameSettings, VideoRef\n"
        "ahead = Prefetcher(FrameStore(sys.argv[1], FrameSettings()), 1)\n"
        "ahead.want([VideoRef('b.mp4')])\n"
        "print(len(ahead.clip(VideoRef('a.mp4')).frames))\n"
        "print(ahead._team[0][0].process.pid)\n"
    )
    result = subprocess.run([sys.executable, script, videos], capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stderr) == (0, "")
    frames, pid = result.stdout.split()
    assert frames == "24"

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
        except FileNotFoundError:
            return True

    until(gone)
