"""Readers of both layouts, batches with pairs, sampling along time: nothing but video-level labels comes out."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.errors import DataError
from invert_rl.tal.joint import ANNOTATIONS, FEATURES
from invert_rl.tal.planted import PlantedSettings, plant, write_joint_world
from invert_rl.wtal.data import (
    WeakVideo,
    draw_videos,
    from_joint_file,
    from_planted,
    from_video_files,
    snippet_grid,
    stratified_rows,
)

WORLD = plant(PlantedSettings(train_videos=5, test_videos=3))
REAL = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "thumos14" / "thumos14.json.gz"


@pytest.fixture
def joint(tmp_path: Path) -> Path:
    """The generated world in the single-file layout."""
    write_joint_world(WORLD, tmp_path)
    return tmp_path


def test_a_pickle_is_read_only_when_asked_for(joint: Path) -> None:
    with pytest.raises(DataError, match="is a pickle, which can run any code .*; pass allow_pickle=True"):
        from_joint_file(joint, False, "validation", "test")
    data = from_joint_file(joint, True, "validation", "test", width=48)
    assert (len(data.train), len(data.test)) == (5, 3)


def test_no_code_of_the_file_runs_before_it_is_asked_for(joint: Path) -> None:
    class Trap:
        def __reduce__(self):
            return Path.touch, (joint / "ran",)

    trap = np.empty(1, dtype=object)
    trap[0] = Trap()
    np.save(joint / FEATURES, trap, allow_pickle=True)
    with pytest.raises(DataError, match="allow_pickle"):
        from_joint_file(joint, False, "validation", "test")
    assert not (joint / "ran").exists()
    with pytest.raises((DataError, ValueError, TypeError)):  # it is no array of features, which is found out too late
        from_joint_file(joint, True, "validation", "test")
    assert (joint / "ran").exists()


def test_both_layouts_hold_the_generated_world(joint: Path, tmp_path: Path) -> None:
    files = tmp_path / "features"
    files.mkdir()
    for video in WORLD.videos:
        np.save(files / f"{video.video}.npy", np.concatenate([video.features, video.second], axis=1))
    single = from_joint_file(joint, True, "validation", "test")
    many = from_video_files(joint / "annotations.json", files, 48, "Validation", "TEST", snippet_grid())
    planted = from_planted(WORLD)
    for data in (single, many):
        assert sorted(data.classes) == sorted(planted.classes)
        for videos, expected in ((data.train, planted.train), (data.test, planted.test)):
            for video, twin in zip(videos, expected, strict=True):
                assert video.video == twin.video
                assert torch.equal(video.features, twin.features)
                names = {data.classes[i] for i in torch.nonzero(video.labels)[:, 0]}
                assert names == {planted.classes[i] for i in torch.nonzero(twin.labels)[:, 0]}
                entries = data.database[video.video]["annotations"]
                rows = [[video.grid.row(t) for t in entry["segment"]] for entry in entries]
                truth = next(v for v in WORLD.videos if v.video == video.video).segments
                assert np.abs(np.array(rows) - truth).max() < 1e-6  # borders of actions are borders of snippets


def test_a_video_knows_no_times() -> None:
    assert {field.name for field in fields(WeakVideo)} == {"video", "duration", "grid", "features", "labels"}
    assert from_planted(WORLD).train[0].labels.shape == (4,)


def test_what_is_missing_is_said(joint: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no labelled video in subset 'training'; subsets: test, validation"):
        from_joint_file(joint, True, "training", "test")
    with pytest.raises(DataError, match="expected 2048 channels, found shape"):
        from_joint_file(joint, True, "validation", "test", width=2048)
    with pytest.raises(DataError, match="ActivityNet1.3-I3D-JOINTFeatures.npy: no such file"):
        from_joint_file(joint, True, "validation", "test", name="ActivityNet1.3")
    files = tmp_path / "features"
    files.mkdir()
    kept = WORLD.videos[1:]
    for video in kept:
        np.save(files / f"v_{video.video}.npy", np.concatenate([video.features, video.second], axis=1))
    arguments = (joint / "annotations.json", files, 48, "validation", "test", snippet_grid())
    with pytest.raises(DataError, match="no v_planted_0000.npy"):
        from_video_files(*arguments, prefix="v_")
    data = from_video_files(*arguments, prefix="v_", skip_missing=True)
    assert [video.video for video in data.train] == [video.video for video in kept[:4]]
    assert WORLD.videos[0].video in data.database
    np.save(files / f"v_{kept[0].video}.npy", np.zeros((9, 48), np.float32))
    with pytest.raises(DataError, match="9 rows, but .* fps, stride"):
        from_video_files(*arguments, prefix="v_", skip_missing=True)


def test_a_label_that_is_no_class_is_refused(joint: Path) -> None:
    path = joint / ANNOTATIONS / "labels_all.npy"
    labels = np.load(path, allow_pickle=True)
    data = from_joint_file(joint, True, "validation", "test")
    assert set(data.classes) == {"bow", "clap", "jump", "wave"}
    labels[0] = ["juggle"]
    np.save(path, labels, allow_pickle=True)
    assert "juggle" in from_joint_file(joint, True, "validation", "test").classes


def test_real_thumos_labels_are_read_with_generated_features(tmp_path: Path) -> None:
    if not REAL.is_file():
        pytest.skip("needs thumos14.json.gz in shared/data")
    files = tmp_path / "features"
    files.mkdir()
    import gzip

    database = json.loads(gzip.decompress(REAL.read_bytes()))["database"]
    names = {"Validation": [], "Test": []}
    for video, record in database.items():
        if len(names[record["subset"]]) < 3:
            names[record["subset"]].append(video)
            rows = round(record["duration"] * 25 / 16)
            np.save(files / f"{video}.npy", np.zeros((rows, 4), np.float32))
    data = from_video_files(REAL, files, 4, "validation", "test", snippet_grid(), skip_missing=True)
    assert len(data.classes) == 20
    assert [video.video for video in data.train] == names["Validation"]
    for video in data.test:
        there = {entry["label"] for entry in database[video.video]["annotations"]}
        assert {data.classes[i] for i in torch.nonzero(video.labels)[:, 0]} == there


@pytest.mark.parametrize(("rows", "size"), [(100, 10), (10, 10), (7, 10), (3, 64), (64, 60), (1, 5)])
def test_rows_are_drawn_from_equal_strata(rows: int, size: int) -> None:
    generator = np.random.default_rng(0)
    drawn = np.stack([stratified_rows(rows, size, generator) for _ in range(300)])
    assert drawn.shape == (300, size)
    assert (np.diff(drawn, axis=1) >= 0).all()
    first = np.floor(np.arange(size) * rows / size).astype(int)
    last = np.append(first[1:], rows - 1)
    assert (drawn >= first).all() and (drawn <= np.maximum(first, last)).all()
    for place in range(size):
        expected = set(range(first[place], max(first[place], last[place]) + 1)) if rows != size else {place}
        assert set(drawn[:, place]) == expected


def test_pairs_share_a_class_at_any_batch_size() -> None:
    generator = np.random.default_rng(0)
    labels = torch.zeros(20, 5)
    labels[torch.arange(20), torch.arange(20) % 3] = 1  # classes 3 and 4 have no videos
    labels[7, 3] = 1  # class 3 has one: it can give no pair
    seen: Counter[int] = Counter()
    for size in (1, 2, 3, 5, 10, 16):
        for _ in range(50):
            chosen, pairs = draw_videos(labels, size, 3, generator)
            assert chosen.shape == (size,)
            assert len(pairs) == min(3, size // 2)
            for first, second in pairs:
                assert chosen[first] != chosen[second]
                assert (labels[chosen[first]] * labels[chosen[second]]).any()
            seen.update(chosen.tolist())
    assert set(seen) == set(range(20))
    assert draw_videos(torch.eye(4), 6, 3, generator)[1] == []
    with pytest.raises(ValueError, match="at least one video"):
        draw_videos(labels, 0, 3, generator)
