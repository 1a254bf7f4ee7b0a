"""``invert-rl cache-frames`` as its users meet it: several at a time, a full disk, a kill in the middle."""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from video_clips import constant_rate

from data_prep.rows import Row, write_rows
from invert_rl.video.cache_frames import add_arguments, run
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore

COMMAND = (
    "import argparse, sys\n"
    "from invert_rl.video.cache_frames import add_arguments, run\n"
    "if __name__ == '__main__':\n"
    "    parser = argparse.ArgumentParser()\n"
    "    add_arguments(parser)\n"
    "    sys.exit(run(parser.parse_args()))\n"
)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Arguments for a data file of six videos, two rows each: a part of 3 s and one of 1 s."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "cache_frames_command.py").write_text(COMMAND)
    rows = []
    for index in range(6):
        constant_rate(tmp_path / "videos" / f"{index}.mp4", "libx264", frames=100)
        for start, end in ((2.0, 5.0), (6.0, 7.0)):
            rows.append(Row(f"{index}-{start}", f"{index}.mp4", 10.0, "a query", ((start, end),)))
    write_rows(rows, tmp_path / "rows.jsonl")
    places = ["--videos", tmp_path / "videos", "--store", tmp_path / "store"]
    return [str(word) for word in (tmp_path / "rows.jsonl", *places, "--workers", 1, "--json")]


def in_process(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def start(arguments: list[str], tmp_path: Path, file_bytes: int | None = None) -> subprocess.Popen:
    def limit() -> None:
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    command = [sys.executable, str(tmp_path / "cache_frames_command.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit)


def entries(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "store").rglob("*") if path.is_file())


def check_complete(tmp_path: Path) -> None:
    """Six whole videos and six parts of 1 s, all readable without the videos' being decoded."""
    assert [path.suffix for path in entries(tmp_path)] == [".safetensors"] * 12
    store = FrameStore(tmp_path / "videos", FrameSettings(), directory=tmp_path / "store", timeout=0)
    for index in range(6):
        assert len(store.clip(VideoRef(f"{index}.mp4")).frames) == 20
        assert len(store.clip(VideoRef(f"{index}.mp4", 2.0, 5.0)).frames) == 6
        assert len(store.clip(VideoRef(f"{index}.mp4", 6.0, 7.0)).frames) == 4


def test_broken_videos_are_named_and_the_rest_is_stored_once(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (tmp_path / "videos" / "3.mp4").read_bytes()
    (tmp_path / "videos" / "3.mp4").write_bytes(b"")
    broken = ["--broken", str(tmp_path / "broken.json")]
    assert in_process([*arguments, *broken]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert (summary["videos"], summary["stored"]) == (6, 5)
    assert summary["broken"] == json.loads((tmp_path / "broken.json").read_text()) == {"3.mp4": "empty file"}
    assert summary["bytes"] == sum(path.stat().st_size for path in entries(tmp_path))

    times = {path: path.stat().st_mtime_ns for path in entries(tmp_path)}
    (tmp_path / "videos" / "3.mp4").write_bytes(good)
    assert in_process(arguments) == 0
    assert json.loads(capsys.readouterr().out)["stored"] == 6
    assert {path: path.stat().st_mtime_ns for path in times} == times
    check_complete(tmp_path)


def test_the_frames_are_those_that_training_asks_for(arguments: list[str], tmp_path: Path) -> None:
    assert in_process([*arguments, "--fps", "4", "--image_patch_size", "16"]) == 0
    settings = FrameSettings(fps=4, image_patch_size=16)
    stored = FrameStore(tmp_path / "videos", settings, directory=tmp_path / "store", timeout=0)
    decoded = FrameStore(tmp_path / "videos", settings)
    for ref in (VideoRef("0.mp4"), VideoRef("0.mp4", 6.0, 7.0)):
        assert torch.equal(stored.clip(ref).frames, decoded.clip(ref).frames)


@pytest.mark.slow
def test_two_at_a_time_on_one_store(arguments: list[str], tmp_path: Path) -> None:
    both = [start(arguments, tmp_path) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert json.loads(out)["stored"] == 6
    check_complete(tmp_path)


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_where_it_was(arguments: list[str], tmp_path: Path) -> None:
    process = start(arguments, tmp_path)
    deadline = time.monotonic() + 60
    while not entries(tmp_path):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert in_process(arguments) == 0
    check_complete(tmp_path)


@pytest.mark.slow
def test_a_full_disk_ends_it_with_the_reason(arguments: list[str], tmp_path: Path) -> None:
    process = start(arguments, tmp_path, file_bytes=100_000)  # the system refuses the rest of a larger file
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert out == ""
    assert f"error: {tmp_path / 'store'}: File too large" in err and "make room" in err
    assert "Traceback" not in err
    assert entries(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--fps", "-1"], "fps must be"),
        (["--videos", "/nowhere"], "/nowhere: no such video folder"),
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str], change: list[str], message: str) -> None:
    assert in_process([*arguments, *change]) == 2
    assert message in capsys.readouterr().err
