"""The embedded default's world: actions that only their course tells from background, twins that only language tells.

An action begins and ends with the same movement whatever its class, and shows its class in between. Background shows
the same movements and the same classes, but never in that order: a border needs its context. Two classes look alike.
What the language model knows is right on the rows of these twins; elsewhere it names classes at random, as often over
background as over actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from invert_rl.actionvlm.data import ActionData
from invert_rl.tal.annotations import read_database
from invert_rl.tal.data import Video, read_videos
from invert_rl.tal.features import Features, Layout
from invert_rl.tal.planted import TWINS, PlantedSettings, PlantedWorld, free_stretches, plant, unit_vectors, write_world
from invert_rl.tal.trivial import best_rule, class_means, nearest_mean, neighbours_of, smoothed, windows

WORLD = PlantedSettings(
    train_videos=192, test_videos=48, lengths=(6, 20), actions=2, strength=7.0, second_strength=12.0
)
EDGE = 2
"""Rows of an action's beginning and of its end."""
DISTRACTORS = 8
"""Stretches of background, at most, that show a class, or the movement of borders."""
BABBLE = 3
"""Stretches, at most, over which language names a class at random."""
BLUR = 3
"""Rows, at most, by which it begins and ends early or late."""


def course_world(settings: PlantedSettings) -> PlantedWorld:
    """A world of ``settings`` as described above; its classes are those of `invert_rl.tal.planted`."""
    rng = np.random.default_rng([settings.seed, 7])
    classes = 4
    looks = unit_vectors(rng, classes + 2, settings.width)
    looks[TWINS[1]] = looks[TWINS[0]]
    start_look, end_look = looks[classes], looks[classes + 1]
    words = unit_vectors(rng, classes, settings.second_width)

    def paint(
        rng: np.random.Generator, features: np.ndarray, second: np.ndarray, segments: np.ndarray, labels: np.ndarray
    ) -> None:
        rows = len(features)
        for (start, end), label in zip(segments, labels, strict=True):
            features[start : start + EDGE] += settings.strength * start_look
            features[start + EDGE : end - EDGE] += settings.strength * looks[label]
            features[end - EDGE : end] += settings.strength * end_look
            if label in TWINS:
                first, last = (int(place + rng.integers(-BLUR, BLUR + 1)) for place in (start, end))
                second[max(0, first) : max(last, first + 1)] += settings.second_strength * words[label]
        for start, end in free_stretches(rng, rows, segments, DISTRACTORS, (4, 12)):
            shown = rng.integers(0, classes + 2)
            features[start:end] += settings.strength * looks[shown]
        for start, end in free_stretches(rng, rows, segments[:0], BABBLE, (3, 16)):
            second[start:end] += settings.second_strength * words[rng.integers(0, classes)]

    return plant(settings, None, paint)


def planted_data(folder: Path, seed: int, shuffled: bool = False, settings: PlantedSettings = WORLD) -> ActionData:
    """The world of ``seed``, written to ``folder`` and read back; ``shuffled`` permutes the labels of training.

    The second channel stands behind the features as what the language model knows.
    """
    world = course_world(replace(settings, seed=seed))
    world = world.with_shuffled_labels() if shuffled else world
    with PartialState().main_process_first():
        if not (folder / "annotations.json").is_file():
            write_world(world, folder)
    annotations = folder / "annotations.json"
    second = Layout(world.settings.second_width, world.layout.stride, world.layout.clip, world.layout.fps)
    sets = []
    for subset in ("training", "validation"):
        seen = read_videos(annotations, Features(folder / "features", world.layout), subset, world.classes)
        known = read_videos(annotations, Features(folder / "second", second), subset, world.classes)
        pairs = zip(seen, known, strict=True)
        sets.append([replace(a, features=torch.cat([a.features[:], b.features[:]], dim=1)) for a, b in pairs])
    return ActionData(
        list(world.classes),
        sets[0],
        sets[1],
        read_database(annotations),
        "validation",
        world.settings.width,
        world.settings.second_width,
    )


def planted_groups(classes: Sequence[str]) -> dict[str, list[str]]:
    """The visual twins of generated data, and the other classes."""
    twins = [classes[index] for index in TWINS]
    return {"ambiguous": twins, "clear": [name for name in classes if name not in twins]}


def trivial(data: ActionData, protocol: str, thresholds: Sequence[float] | None) -> dict[str, Any]:
    """What fixed rules give on the test videos (see `best_rule`).

    The nearest class mean of each row, with and without the language channel, and how many of the nearest windows of
    seven training rows lie in actions of a class.
    """
    rules = {}
    for name, last in (("nearest class mean", None), ("nearest class mean of vision", data.feature_width)):
        rows = {video.video: video.features[:].numpy()[:, :last] for video in (*data.train, *data.test)}
        train = [rows[video.video] for video in data.train]
        means = class_means(train, [_row_labels(video) for video in data.train], len(data.classes))
        found = {video.video: nearest_mean(rows[video.video], means) for video in data.test}
        rules[name] = found.__getitem__
        rules[f"{name}, smoothed"] = {video: smoothed(scores) for video, scores in found.items()}.__getitem__
    table = np.concatenate([windows(video.features[:].numpy()) for video in data.train])
    owners = np.concatenate([_row_labels(video) for video in data.train])[:, None] == np.arange(len(data.classes))
    near = {video.video: neighbours_of(windows(video.features[:].numpy()), table, owners) for video in data.test}
    rules["neighbours"] = near.__getitem__
    rules["neighbours, smoothed"] = {video: smoothed(scores) for video, scores in near.items()}.__getitem__
    videos = [(video.video, video.grid, video.duration) for video in data.test]
    return best_rule(rules, videos, data.classes, data.truth, data.test_subset, protocol, thresholds)


def _row_labels(video: Video) -> np.ndarray:
    """The class id of each row ``(T,)``, -1 for background."""
    ids = np.full(len(video.features), -1)
    for (start, end), label in zip(video.segments.tolist(), video.labels.tolist(), strict=True):
        ids[max(0, round(start + 0.5)) : round(end + 0.5)] = label
    return ids
