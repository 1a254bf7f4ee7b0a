"""Generated data: the layouts are read back, the annotations fit the rows, and the twins are twins."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.errors import DataError
from invert_rl.tal.annotations import class_names, read_database
from invert_rl.tal.data import read_videos
from invert_rl.tal.features import Features
from invert_rl.tal.joint import GRID, read_joint_features
from invert_rl.tal.planted import CLASSES, TWINS, PlantedSettings, plant, write_joint_world, write_world

SMALL = PlantedSettings(train_videos=4, test_videos=3)


@pytest.mark.parametrize("layout", ["npy", "npz", "hdf5"])
def test_layouts_are_read_back(layout: str, tmp_path: Path) -> None:
    if layout == "hdf5":
        pytest.importorskip("h5py")
    world = plant(SMALL)
    annotations = write_world(world, tmp_path, layout)
    path = tmp_path / ("features.hdf5" if layout == "hdf5" else "features")
    videos = read_videos(annotations, Features(path, world.layout), "Training")
    assert [video.video for video in videos] == [f"planted_000{index}" for index in range(4)]
    for video, planted in zip(videos, world.videos, strict=False):
        assert np.array_equal(video.features[:].numpy(), planted.features)
        assert video.labels.tolist() == planted.labels.tolist()
        assert np.abs(video.segments.numpy() + 0.5 - planted.segments).max() <= 2.0  # clipped at the video's ends
    assert class_names(read_database(annotations)) == sorted(CLASSES)


def test_rows_of_a_segment_carry_its_class() -> None:
    world = plant(PlantedSettings(train_videos=20, test_videos=0))
    for video in world.videos:
        inside = np.zeros(len(video.features), dtype=bool)
        for (start, end), label in zip(video.segments, video.labels, strict=True):
            assert not inside[max(0, start - 2) : end + 2].any()
            inside[start:end] = True
            assert (video.features[start:end] @ world.directions[label]).mean() == pytest.approx(6, abs=2.5)
        assert np.abs((video.features[~inside] @ world.directions.T).mean(axis=0)).max() < 1.5


def test_twins_differ_in_the_second_channel_only() -> None:
    world = plant(SMALL)
    first, second = TWINS
    assert np.array_equal(world.directions[first], world.directions[second])
    assert abs(world.second_directions[first] @ world.second_directions[second]) < 0.9


def test_a_seed_decides_everything() -> None:
    one, same, other = plant(SMALL), plant(SMALL), plant(PlantedSettings(4, 3, seed=1))
    assert all(np.array_equal(a.features, b.features) for a, b in zip(one.videos, same.videos, strict=True))
    assert not np.array_equal(one.videos[0].features[:40], other.videos[0].features[:40])
    lengths = np.concatenate([np.diff(v.segments, axis=1) for v in plant(PlantedSettings(200, 0)).videos])
    assert lengths.min() == 3
    assert lengths.max() >= 18


def test_shuffling_changes_training_labels_only() -> None:
    world = plant()
    shuffled = world.with_shuffled_labels()

    def labels(of: str, which: list) -> list[int]:
        return [label for video in which if video.subset == of for label in video.labels.tolist()]

    assert labels("validation", world.videos) == labels("validation", shuffled.videos)
    assert labels("training", world.videos) != labels("training", shuffled.videos)
    assert sorted(labels("training", world.videos)) == sorted(labels("training", shuffled.videos))


def test_classes_of_given_directions() -> None:
    world = plant(SMALL, directions=np.eye(6, 32))
    assert world.classes == tuple(f"class_0{index}" for index in range(6))
    assert np.array_equal(world.directions, np.eye(6, 32))


def test_joint_layout(tmp_path: Path) -> None:
    world = plant(SMALL)
    write_joint_world(world, tmp_path)
    videos = read_joint_features(tmp_path, allow_pickle=True, width=48)
    database = json.loads((tmp_path / "annotations.json").read_text())["database"]
    assert [video.subset for video in videos] == ["validation"] * 4 + ["test"] * 3
    for video, planted in zip(videos, world.videos, strict=True):
        assert np.array_equal(video.features[:, :32], planted.features)
        assert video.labels == tuple(sorted({CLASSES[label] for label in planted.labels}))
        entries = database[video.video]["annotations"]
        assert video.segments == tuple((*entry["segment"], entry["label"]) for entry in entries)
        assert video.duration == pytest.approx(len(planted.features) * 16 / 25)
        assert np.abs(GRID.row(np.array([s[:2] for s in video.segments])) - planted.segments).max() < 1e-9


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    world = plant(SMALL)
    annotations = write_world(world, tmp_path)
    features = Features(tmp_path / "features", world.layout)
    with pytest.raises(DataError, match="no annotated video in subset 'test'; subsets: training, validation"):
        read_videos(annotations, features, "test")
    with pytest.raises(DataError, match="none of the 1 classes"):
        read_videos(annotations, features, "training", ["bow"])
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(DataError, match="expected an object with 'database'"):
        read_database(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="layout must be"):
        write_world(world, tmp_path, "mat")


def test_resized_videos_keep_their_times(tmp_path: Path) -> None:
    world = plant(SMALL)
    annotations = write_world(world, tmp_path)
    features = Features(tmp_path / "features", world.layout)
    plain = read_videos(annotations, features, "training")
    for mode in ("actionformer", "opentad"):
        resized = read_videos(annotations, features, "training", size=32, resize_mode=mode)
        for video, other in zip(plain, resized, strict=True):
            assert other.features.shape == (32, 32)
            times = video.grid.seconds(video.segments.double())
            assert torch.allclose(other.grid.seconds(other.segments.double()), times, atol=1e-4)


def test_videos_of_one_class_are_the_same_but_for_their_labels() -> None:
    mixed, plain = plant(SMALL), plant(replace(SMALL, one_class=True))
    for video, other in zip(plain.videos, mixed.videos, strict=True):
        assert set(video.labels) == {other.labels[0]}
        assert np.array_equal(video.segments, other.segments)
    assert any(len(set(video.labels)) > 1 for video in mixed.videos)
