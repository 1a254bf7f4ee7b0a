"""Fixed rules on rows: right where rows tell everything, and what they get on the generated worlds of the recipes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from invert_rl.psftr.experiment import class_split, load_split, use_planted_world
from invert_rl.psftr.planted import mapped_world
from invert_rl.psftr.planted import trivial as psftr_rules
from invert_rl.psftr.settings import PSFTRArguments
from invert_rl.tal.grid import Grid
from invert_rl.tal.planted import PlantedSettings, free_stretches, plant, unit_vectors
from invert_rl.tal.trivial import best_rule, class_means, detections_of, nearest_mean, neighbours_of, smoothed, windows
from invert_rl.wtal.data import from_planted
from invert_rl.wtal.planted import WORLD, object_world
from invert_rl.wtal.planted import trivial as weak_rules

GRID = Grid(10.0, 1.0, 1.0)


def test_detections_are_the_stretches_of_high_rows() -> None:
    scores = np.zeros((20, 2))
    scores[4:9, 1] = 2.0
    found = detections_of(scores, ["a", "b"], GRID, 2.0)
    assert {entry["label"] for entry in found} == {"b"}
    assert found[0]["segment"] == pytest.approx([0.4, 0.9])
    assert found[0]["score"] == pytest.approx(2.0)
    assert detections_of(np.zeros((20, 2)), ["a", "b"], GRID, 2.0) == []


def test_the_nearest_mean_solves_a_world_of_one_direction_per_class() -> None:
    """The former default of the recipes: ten lines get all of it."""
    world = plant(PlantedSettings(train_videos=24, test_videos=12, second_strength=12.0))
    rows = {v.video: np.concatenate([v.features, v.second], axis=1) for v in world.videos}
    labels = {}
    for video in world.videos:
        labels[video.video] = np.full(len(video.features), -1)
        for (start, end), label in zip(video.segments, video.labels, strict=True):
            labels[video.video][start:end] = label
    train = [v.video for v in world.videos if v.subset == "training"]
    means = class_means([rows[v] for v in train], [labels[v] for v in train], 4)
    assert means.shape == (5, 48)
    database = world.database()
    tested = [v.video for v in world.videos if v.subset == "validation"]
    videos = [(v, world.layout.grid(), database[v]["duration"]) for v in tested]
    rules = {"mean": lambda v: nearest_mean(rows[v], means), "nothing": lambda v: np.zeros((len(rows[v]), 4))}
    found = best_rule(rules, videos, world.classes, database, "validation", "actionformer")
    assert found["rule"] == "mean"
    assert found["average_mAP"] > 0.9
    assert found["rules"]["nothing"] == 0
    assert found["n"] == sum(len(v.segments) for v in world.videos if v.video in tested)


def test_rules_by_hand() -> None:
    means = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 9.0]])  # the last is background
    scores = nearest_mean(np.array([[1.0, 0.0], [0.0, 8.0]]), means)
    assert scores.tolist() == [[2.0, 0.0], [0.0, 0.0]]
    assert smoothed(np.array([[0.0], [5.0], [0.0], [0.0], [0.0]])).flatten().tolist() == [1, 1, 1, 1, 0]
    assert windows(np.array([[1.0], [2.0], [3.0]]), 1).tolist() == [[1, 1, 2], [1, 2, 3], [2, 3, 3]]
    table, owners = np.array([[0.0, 0.0], [1.0, 0.0], [9.0, 9.0]]), np.array([[1.0], [0.0], [4.0]])
    assert neighbours_of(np.array([[0.4, 0.0], [9.0, 8.0]]), table, owners, 1).tolist() == [[1], [4]]
    assert neighbours_of(np.array([[0.4, 0.0]]), table, owners, 2).tolist() == [[0.5]]
    assert neighbours_of(np.zeros((1, 2)), table, owners, 99).tolist() == [[5 / 3]]  # all there are
    vectors = unit_vectors(np.random.default_rng(0), 3, 8)
    assert np.allclose(vectors @ vectors.T, np.eye(3))
    assert np.allclose(np.linalg.norm(unit_vectors(np.random.default_rng(0), 9, 4), axis=1), 1)
    taken = np.array([[5, 9]])
    for seed in range(20):
        for start, end in free_stretches(np.random.default_rng(seed), 30, taken, 6, (2, 5)):
            assert 0 <= start < end <= 30 and (end < 5 or start > 9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_neighbours_solve_the_weak_world_and_other_rules_do_not(seed: int) -> None:
    """Rows that only a class's videos have are its action."""
    world = object_world(replace(WORLD, train_videos=48, test_videos=24, seed=seed))
    found = weak_rules(from_planted(world), WORLD.width, "delu", (0.1, 0.3, 0.5))
    assert found["rule"] == "neighbours" and found["average_mAP"] > 0.9, found["rules"]
    assert max(value for rule, value in found["rules"].items() if "neighbours" not in rule) < 0.8, found["rules"]
    assert found["rules"]["length"] < 0.35


def test_neighbours_know_nothing_without_labels() -> None:
    world = object_world(replace(WORLD, train_videos=48, test_videos=24))
    shuffled = weak_rules(from_planted(world.with_shuffled_labels()), WORLD.width, "delu", (0.1, 0.3, 0.5))
    assert shuffled["rules"]["neighbours"] < 0.5, shuffled["rules"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_text_says_nothing_without_the_map_and_the_map_not_everything(seed: int, tmp_path: Path) -> None:
    args = PSFTRArguments(
        output_dir=str(tmp_path), planted_seed=seed, use_cpu=True, train_subset="training", test_subset="validation"
    )
    args.feature_stride, args.feature_clip, args.feature_fps, args.slice_size = 4, 16, 30, None
    use_planted_world(args)
    data = load_split(args, class_split(args, 0), 32)
    found = psftr_rules(data, data.unseen, "validation", "activitynet", [0.3, 0.5, 0.7])
    assert found["rules"]["text"] < 0.1
    assert found["average_mAP"] < 0.85, found["rules"]


def test_an_action_shows_one_attribute_after_the_other() -> None:
    world = mapped_world(
        PlantedSettings(train_videos=20, test_videos=0, strength=100.0, lengths=(6, 20), one_class=True)
    )
    halves: dict[int, list[np.ndarray]] = {}
    for video in world.videos:
        for (start, end), label in zip(video.segments, video.labels, strict=True):
            halves.setdefault(int(label), []).append(
                np.stack([video.features[start + 1], video.features[end - 2]]) / 100
            )
    for label, shown in halves.items():
        first, last = np.mean(shown, axis=0)
        assert abs(first @ last) < 0.1
        assert abs((first + last) @ world.directions[label]) < 1.2  # not the text, but a turned one
