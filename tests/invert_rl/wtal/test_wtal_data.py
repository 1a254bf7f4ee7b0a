"""Readers of both layouts, batches with pairs, sampling along time: nothing but video-level labels comes out."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.errors import DataError
from invert_rl.tal.joint import ANNOTATIONS, FEATURES
from invert_rl.tal.planted import PlantedSettings, plant, write_joint_world
from invert_rl.wtal.config import WtalArguments
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


def feature_arguments(features: Path, train: str = "validation", test: str = "test", **more: Any) -> WtalArguments:
    return WtalArguments(
        output_dir=str(features),
        features=str(features),
        annotations="-",
        train_subset=train,
        test_subset=test,
        use_cpu=True,
        **more,
    )


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
    many = from_video_files(feature_arguments(files, "Validation", "TEST"), joint / "annotations.json", 48)
    planted = from_planted(WORLD)
    for data in (single, many):
        assert sorted(data.classes) == sorted(planted.classes)
        for videos, expected in ((data.train, planted.train), (data.test, planted.test)):
            for video, twin in zip(videos, expected, strict=True):
                assert video.video == twin.video
                assert torch.equal(video.features[:], twin.features[:])
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
    given = {"feature_prefix": "v_"}
    with pytest.raises(
        DataError, match="features of 1 videos are missing and of 0 do not fit\n  missing: planted_0000"
    ):
        from_video_files(feature_arguments(files, **given), joint / "annotations.json", 48)
    skipping = feature_arguments(files, skip_missing=True, **given)  # the older name
    assert skipping.bad_features == "skip"
    data = from_video_files(skipping, joint / "annotations.json", 48)
    assert [video.video for video in data.train] == [video.video for video in kept[:4]]
    assert WORLD.videos[0].video in data.database
    np.save(files / f"v_{kept[0].video}.npy", np.zeros((9, 48), np.float32))
    data = from_video_files(skipping, joint / "annotations.json", 48)
    assert data.features is not None
    assert data.features["missing"] == ["planted_0000"]
    assert "9 rows, but" in data.features["odd"][kept[0].video]
    taking = feature_arguments(files, bad_features="take", **given)
    data = from_video_files(taking, joint / "annotations.json", 48)
    assert [len(video.features) for video in data.train][0] == 9


def test_features_with_overlapping_clips(joint: Path, tmp_path: Path) -> None:
    """Stride 4 and clip 16, as ActionFormer's: a row stands for the 4 frames in the middle of its clip."""
    grid = snippet_grid(30.0, 4.0, 16.0)
    assert grid.seconds(np.array([0.0, 1.0])) * 30 == pytest.approx([6.0, 10.0])  # 8 is the middle of the first clip
    assert snippet_grid() == snippet_grid(25.0, 16.0, 16.0)
    database = {
        name: {"subset": subset, "duration": 20.0, "fps": 30.0, "annotations": [{"segment": [2.0, 5.0], "label": "a"}]}
        for name, subset in (("x", "validation"), ("y", "test"))
    }
    (tmp_path / "a.json").write_text(json.dumps({"database": database}))
    (tmp_path / "f").mkdir()
    for name in database:
        np.save(tmp_path / "f" / f"{name}.npy", np.zeros((147, 2048), np.float32))
    args = feature_arguments(tmp_path / "f", feature_layout="thumos-i3d")
    data = from_video_files(args, tmp_path / "a.json", 2048)
    assert data.test[0].grid == grid
    assert len(data.test[0].features) == 147


def test_an_odd_entry_of_the_joint_file(joint: Path) -> None:
    rows = np.load(joint / FEATURES, allow_pickle=True)
    rows[1], rows[6] = rows[1][:, :7], np.full_like(rows[6], np.nan)
    np.save(joint / FEATURES, rows, allow_pickle=True)
    with pytest.raises(
        DataError, match=r"2 entries do not fit; .*\n.*entry 1 .*expected 48 channels.*\n.*entry 6 .*not finite"
    ):
        from_joint_file(joint, True, "validation", "test", width=48)
    data = from_joint_file(joint, True, "validation", "test", width=48, policy="skip")
    assert (len(data.train), len(data.test)) == (4, 2)
    assert data.features is not None
    assert list(data.features["odd"]) == ["planted_0001", "planted_0006"]
    assert data.features["ground_truth_without_features"] == len(data.database["planted_0006"]["annotations"])
    assert "planted_0006" in data.database  # what it holds counts as missed


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
    data = from_video_files(feature_arguments(files, bad_features="skip"), REAL, 4)
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
