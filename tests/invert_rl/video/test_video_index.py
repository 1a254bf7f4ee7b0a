"""The packets of a file are read once for all of its parts, and anew when the file changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from video_clips import HEIGHT, WIDTH, constant_rate

from invert_rl.video import index
from invert_rl.video.errors import VideoError
from invert_rl.video.load import decode_clip
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings

SETTINGS = FrameSettings(fps=5, min_pixels=HEIGHT * WIDTH, max_pixels=2 * HEIGHT * WIDTH)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose packets were read."""
    names: list[str] = []
    plain = index.list_frames

    def counted(path, deadline, name):
        names.append(name)
        return plain(path, deadline, name)

    monkeypatch.setattr(index, "list_frames", counted)
    monkeypatch.setattr("invert_rl.video.load.INDEX", index.PacketIndex(kept=2))
    return names


def test_parts_of_a_file_share_one_index(tmp_path: Path, read: list[str]) -> None:
    constant_rate(tmp_path / "a.mp4", "libx264", 40)
    parts = [decode_clip(VideoRef("a.mp4", start, start + 1.0), SETTINGS, tmp_path) for start in (0.0, 1.0, 2.5)]
    assert read == ["a.mp4"]
    again = decode_clip(VideoRef("a.mp4", 1.0, 2.0), SETTINGS, tmp_path)
    assert torch.equal(again.frames, parts[1].frames)
    constant_rate(tmp_path / "a.mp4", "libx264", 20)
    os.utime(tmp_path / "a.mp4", ns=(1, 1))
    with pytest.raises(VideoError):
        decode_clip(VideoRef("a.mp4", 2.5, 3.5), SETTINGS, tmp_path)
    assert read == ["a.mp4", "a.mp4"]


def test_few_files_are_kept_and_a_missing_one_is_named(tmp_path: Path, read: list[str]) -> None:
    for name in "abc":
        constant_rate(tmp_path / f"{name}.mp4", "libx264", 20)
        decode_clip(VideoRef(f"{name}.mp4"), SETTINGS, tmp_path)
    decode_clip(VideoRef("c.mp4"), SETTINGS, tmp_path)
    decode_clip(VideoRef("a.mp4"), SETTINGS, tmp_path)
    assert read == ["a.mp4", "b.mp4", "c.mp4", "a.mp4"]
    with pytest.raises(VideoError, match=r"missing\.mp4"):
        decode_clip(VideoRef("missing.mp4"), SETTINGS, tmp_path)
