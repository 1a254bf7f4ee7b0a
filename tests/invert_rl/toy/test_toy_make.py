"""The world on disk: by seed alone, made once, completed when half-made."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest

from data_prep.errors import DataError
from data_prep.rows import read_rows
from invert_rl.toy.make import make_world
from invert_rl.toy.queries import VERBS


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("world")
    make_world(directory, seed=3, n_train=6, n_validation=2, n_test=3)
    return directory


def test_rows_follow_the_schema_and_name_their_files(world):
    for split, clips in (("train", 6), ("validation", 2), ("test", 3)):
        rows = read_rows(world / f"{split}.jsonl")
        assert len({row.video for row in rows}) == clips
        for row in rows:
            assert row.dataset == "toy" and row.split == split and row.duration == 12.0
            assert (world / "videos" / row.video).is_file() and row.id.startswith(f"{split}_")
            assert row.meta["verbs"][0] in VERBS and "[]" in row.meta["masked_query"]
            assert row.window[0] < row.window[1]


def test_files_are_12_seconds_of_56x56_h264_that_begin_at_zero(world):
    with av.open(str(world / "videos" / "train_00000.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 56, 56)
        assert stream.codec_context.pix_fmt == "yuv420p"
        times = [frame.time for frame in container.decode(stream)]
    assert times == [index / 8 for index in range(96)]


def test_same_seed_same_bytes_and_a_clip_does_not_depend_on_the_counts(world, tmp_path):
    make_world(tmp_path, seed=3, n_train=4, n_validation=0, n_test=1)
    small, large = contents(tmp_path), contents(world)
    videos = [name for name in small if name.endswith(".mp4")]
    assert len(videos) == 5
    assert all(small[name] == large[name] for name in videos)
    assert large["train.jsonl"].startswith(small["train.jsonl"])
    assert not (tmp_path / "validation.jsonl").exists()


def test_splits_and_seeds_differ(world, tmp_path):
    files = contents(world)
    assert files["videos/train_00000.mp4"] != files["videos/test_00000.mp4"]
    make_world(tmp_path, seed=4, n_train=1, n_validation=0, n_test=0)
    assert contents(tmp_path)["videos/train_00000.mp4"] != files["videos/train_00000.mp4"]


def test_a_finished_world_is_not_touched_and_a_half_made_one_is_completed(world):
    before = contents(world)
    times = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    make_world(world, seed=3, n_train=6, n_validation=2, n_test=3)
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*")} == times
    stamp = json.loads((world / "world.json").read_text())
    (world / "world.json").write_text(json.dumps({**stamp, "finished": False}))
    (world / "videos" / "train_00003.mp4").unlink()
    (world / "test.jsonl").unlink()
    make_world(world, seed=3, n_train=6, n_validation=2, n_test=3)
    assert contents(world) == before


def test_another_worlds_folder_is_refused(world):
    with pytest.raises(DataError, match="seed 3.*another folder"):
        make_world(world, seed=9, n_train=6, n_validation=2, n_test=3)
    with pytest.raises(DataError, match="train"):
        make_world(world, seed=3, n_train=-1, n_validation=2, n_test=3)


@pytest.mark.slow
def test_two_workers_write_the_same_files(world, tmp_path):
    make_world(tmp_path, seed=3, n_train=6, n_validation=2, n_test=3, workers=2)
    assert contents(tmp_path) == contents(world)
