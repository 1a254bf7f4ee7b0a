"""The embedded default's world: an action is an object and its movement together; background has as much of either.

RGB shows the object of an action, flow its movement. Background shows objects of any class that stand still but close
by, movements of any class with nothing that belongs to them, and scenes under a moving camera. Neither the length of a
feature nor a sum over both streams tells where something happens. Two classes have the same object. Nearest
neighbours tell it (see `trivial`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from invert_rl.tal.grid import Grid
from invert_rl.tal.planted import TWINS, PlantedSettings, PlantedWorld, free_stretches, plant, unit_vectors
from invert_rl.tal.trivial import best_rule, neighbours_of, smoothed
from invert_rl.wtal.data import WeakData, WeakVideo

WORLD = PlantedSettings(lengths=(4, 20), actions=3)
CLASSES = 4
SCENES = 4
"""Backgrounds that a moving camera shows, each with a movement of its own."""
STRETCHES = 8
"""Stretches of such background, at most."""
SHORT = 9
"""Rows of an action that a text calls long."""


def object_world(settings: PlantedSettings) -> PlantedWorld:
    """A world of ``settings`` as described above; its classes are those of `invert_rl.tal.planted`."""
    rng = np.random.default_rng([settings.seed, 11])
    looks = unit_vectors(rng, CLASSES + SCENES, settings.width)
    looks[TWINS[1]] = looks[TWINS[0]]
    moves = unit_vectors(rng, CLASSES + SCENES, settings.second_width)

    def paint(
        rng: np.random.Generator, features: np.ndarray, second: np.ndarray, segments: np.ndarray, labels: np.ndarray
    ) -> None:
        for (start, end), label in zip(segments, labels, strict=True):
            features[start:end] += settings.strength * looks[label]
            second[start:end] += settings.second_strength * moves[label]
        for start, end in free_stretches(rng, len(features), segments, STRETCHES, (3, 14)):
            kind = rng.integers(0, 3)
            if kind == 0:  # an object close by stands still
                features[start:end] += 2 * settings.strength * looks[rng.integers(0, CLASSES)]
            elif kind == 1:  # a large movement of nothing that belongs to it
                second[start:end] += 2 * settings.second_strength * moves[rng.integers(0, CLASSES)]
            else:  # a scene under a moving camera
                features[start:end] += settings.strength * looks[CLASSES + rng.integers(0, SCENES)]
                second[start:end] += settings.second_strength * moves[CLASSES + rng.integers(0, SCENES)]

    return plant(settings, None, paint)


def video_texts(world: PlantedWorld, classes: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Texts of each video as a multimodal LLM might write them: its actions by time, when in the video, and how long.

    ``classes`` gives the key texts, which stay the class's.
    """
    found = {}
    for video in world.videos:
        rows, parts = len(video.features), []
        for (start, end), label in zip(video.segments.tolist(), video.labels.tolist(), strict=True):
            when = ("at the start", "in the middle", "near the end")[min(2, 3 * (start + end) // (2 * rows))]
            length = "briefly" if end - start < SHORT else "for long"
            parts.append(f"{when} someone does a {world.classes[label]} {length}")
        keys = [classes[world.classes[label]]["key"] for label in sorted(set(video.labels.tolist()))]
        found[video.video] = {"key": ", ".join(keys), "complete": ", then ".join(parts)}
    return found


def trivial(data: WeakData, rgb_width: int, protocol: str, thresholds: Sequence[float]) -> dict[str, Any]:
    """What fixed rules give on the test videos (see `best_rule`); they know the labels of training videos, no times.

    The first ``rgb_width`` channels are RGB, the others flow.

    ``length``: rows by the length of their features, for the classes whose videos the video is like. ``difference``:
    rows along the difference of mean features of videos with and without a class. ``both streams``: the product of what
    is above 0 of it in RGB and in flow, which knows that an action needs the two. ``neighbours``: how many of the
    nearest training rows are of videos with a class, above what chance gives, for the classes whose rows stand out.
    """
    rows = {video.video: video.features[:].numpy().astype(float) for video in (*data.train, *data.test)}
    labels = torch.stack([video.labels for video in data.train]).numpy() > 0
    means = np.stack([rows[video.video].mean(axis=0) for video in data.train])
    centre = means.mean(axis=0)
    towards = np.stack([means[own].mean(axis=0) - means[~own].mean(axis=0) for own in labels.T])  # (C, D)
    along = (means - centre) @ towards.T  # (N, C)
    cuts = np.array([(one[own].mean() + one[~own].mean()) / 2 for one, own in zip(along.T, labels.T, strict=True)])

    def likely(video: str) -> np.ndarray:
        """Which classes the video seems to have, ``(C,)``; the likeliest one at least."""
        values = (rows[video].mean(axis=0) - centre) @ towards.T - cuts
        return np.maximum(values > 0, values == values.max())

    def both(video: str) -> np.ndarray:
        """How much of a class RGB and flow show, multiplied, ``(T, C)``."""
        centred = rows[video] - centre
        streams = (slice(None, rgb_width), slice(rgb_width, None))
        shown = [np.maximum(centred[:, part] @ towards[:, part].T, 0) for part in streams]
        return shown[0] * shown[1]

    table = np.concatenate([rows[video.video] for video in data.train])
    owners = np.repeat(labels - labels.mean(axis=0), [len(rows[video.video]) for video in data.train], axis=0)

    def neighbours(video: str) -> np.ndarray:
        """How much more often than by chance a class's videos are among the nearest training rows', ``(T, C)``."""
        return neighbours_of(rows[video], table, owners)

    def topmost(values: np.ndarray) -> np.ndarray:
        """Mean of the highest seventh of the rows, ``(C,)``, as multiple-instance learning pools them."""
        return np.sort(values, axis=0)[-max(1, len(values) // 7) :].mean(axis=0)

    tops = np.stack([topmost(neighbours(video.video)) for video in data.train])
    heights = np.array([(top[own].mean() + top[~own].mean()) / 2 for top, own in zip(tops.T, labels.T, strict=True)])

    def near(video: str) -> np.ndarray:
        """The same above its least, for the classes whose topmost rows stand out; the likeliest one at least."""
        values = neighbours(video)
        above = topmost(values) - heights
        return (values - values.min(axis=0)) * np.maximum(above > 0, above == above.max())

    rules = {
        "length": lambda video: np.linalg.norm(rows[video] - centre, axis=1)[:, None] * likely(video),
        "length, smoothed": lambda video: smoothed(
            np.linalg.norm(rows[video] - centre, axis=1)[:, None] * likely(video)
        ),
        "difference": lambda video: (rows[video] - centre) @ towards.T * likely(video),
        "difference, smoothed": lambda video: smoothed((rows[video] - centre) @ towards.T * likely(video)),
        "both streams": lambda video: both(video) * likely(video),
        "both streams, smoothed": lambda video: smoothed(both(video) * likely(video)),
        "neighbours": near,
        "neighbours, smoothed": lambda video: smoothed(near(video)),
    }
    return best_rule(
        rules,
        [(video.video, _middle(video), video.duration) for video in data.test],
        data.classes,
        data.database,
        data.test_subset,
        protocol,
        thresholds,
    )


def _middle(video: WeakVideo) -> Grid:
    """The grid on which a row stands at its middle."""
    return replace(video.grid, offset=video.grid.shift + video.grid.stride / 2)
