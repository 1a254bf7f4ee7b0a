"""A clip of a file is a video of its own: the same frames, sizes and times as of a file that holds it alone."""

from __future__ import annotations

import argparse
import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from video_clips import picture, read_indices, write_video

from data_prep.rows import Row, write_rows
from invert_rl.video.cache_frames import add_arguments, run
from invert_rl.video.errors import VideoError
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore

SETTINGS = FrameSettings(fps=2, total_pixels=6 * 64 * 128, min_pixels=28 * 28)
"""A budget that gives the frames of 6 s another size than those of 12 s."""


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """``long.mp4`` of 12 s at 10 frames per second, and ``alone.mp4`` with its frames 30 to 89."""
    pictures = [picture(index) for index in range(120)]
    tenths = Fraction(1, 10)
    write_video(tmp_path / "long.mp4", "libx264", list(range(120)), tenths, pictures, codec_options={"qp": "0"})
    write_video(tmp_path / "alone.mp4", "libx264", list(range(60)), tenths, pictures[30:90], codec_options={"qp": "0"})
    return tmp_path


@pytest.mark.parametrize("part", [(None, None), (1.0, 4.0), (2.0, 3.0)])
def test_a_clip_is_shown_as_the_file_that_holds_it_alone(
    videos: Path, part: tuple[float | None, float | None], tmp_path: Path
) -> None:
    store = FrameStore(videos, SETTINGS, directory=tmp_path / "store")
    alone = store.clip(VideoRef("alone.mp4", *part))
    shown = store.clip(VideoRef("long.mp4", *part, clip=(3.0, 9.0)))
    assert torch.equal(shown.frames, alone.frames)
    assert shown.timestamps.tolist() == pytest.approx(alone.timestamps.tolist())
    assert (shown.start, shown.end) == (alone.start, alone.end)
    assert shown.metadata() == alone.metadata()
    whole_file = store.clip(VideoRef("long.mp4"))
    assert read_indices(whole_file.frames)[:3] == [0, 5, 10]
    assert whole_file.frames.shape[2:] != shown.frames.shape[2:]  # its budget is another
    again = FrameStore(videos, SETTINGS, directory=tmp_path / "store")
    assert torch.equal(again.clip(VideoRef("long.mp4", *part, clip=(3.0, 9.0))).frames, shown.frames)


def test_clips_outside_of_their_file_are_errors_that_name_them(videos: Path) -> None:
    store = FrameStore(videos, SETTINGS)
    with pytest.raises(VideoError, match=r"long.mp4 \[13, 20\]: this window starts after the video's end at 12.000 s"):
        store.clip(VideoRef("long.mp4", clip=(13.0, 20.0)))
    with pytest.raises(VideoError, match=r"starts after the video's end at 6.000 s"):
        store.clip(VideoRef("long.mp4", 7.0, 8.0, clip=(3.0, 9.0)))
    assert store.clip(VideoRef("long.mp4", clip=(8.0, 20.0))).end == 4.0


def test_references_survive_json() -> None:
    ref = VideoRef("a.mp4", 1.0, 2.0, (3.0, 9.0))
    assert VideoRef(**json.loads(json.dumps(vars(ref)))) == ref
    assert hash(VideoRef("a.mp4", clip=[3, 9])) == hash(ref.whole)


def test_cache_frames_stores_the_clips_and_not_their_files(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row("a", "long.mp4", 12.0, "a query", ((5.0, 6.0),), clip=(3.0, 9.0))
    write_rows([row], tmp_path / "rows.jsonl")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    places = ["--videos", str(videos), "--store", str(tmp_path / "store"), "--fps", "2"]
    assert run(parser.parse_args([str(tmp_path / "rows.jsonl"), *places, "--workers", "1"])) == 0
    assert len(list((tmp_path / "store").rglob("*.safetensors"))) == 2  # the clip, and the part of 1 s
    monkeypatch.delattr("invert_rl.video.store.load_clip")
    store = FrameStore(videos, FrameSettings(fps=2), directory=tmp_path / "store")
    store.clip(VideoRef("long.mp4", *row.clip_windows[0], clip=row.clip))
    store.clip(VideoRef("long.mp4", clip=row.clip))
    with pytest.raises(NameError, match="load_clip"):
        store.clip(VideoRef("long.mp4"))
