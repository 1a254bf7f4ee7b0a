"""The embedded default: generated features whose classes share attributes, so that unseen classes can be reached.

A class is the sum of two attribute vectors; the class text is that vector. Unseen classes are new pairs of attributes
that seen classes have with others, as "throw discus" and "hammer throw" share words. An action shows its attributes one
after the other, turned by a map that must be learned from the seen classes; background shows scenes, and single
attributes, of which no row of its own says that it is no action.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from invert_rl.psftr.splits import make_splits, write_splits
from invert_rl.psftr.text import DEFAULT_PROMPT, write_text
from invert_rl.tal.data import Video
from invert_rl.tal.planted import PlantedSettings, PlantedWorld, free_stretches, plant, write_world
from invert_rl.tal.trivial import best_rule, smoothed

if TYPE_CHECKING:
    from invert_rl.psftr.experiment import DetectionSet, SplitData

ATTRIBUTES = 6
"""Attribute vectors; 15 classes are their pairs."""
SCENES = 6
STRETCHES = 6
"""Stretches of background, at most, that show something."""
LONE = 0.6
"""Share of them that show an attribute alone, the others a scene."""
WORLD = PlantedSettings(train_videos=128, test_videos=96, lengths=(6, 20), strength=8.0, one_class=True)


def attribute_vectors(seed: int, attributes: int, width: int) -> np.ndarray:
    """``(attributes, width)`` of length 1, at right angles."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((width, attributes)))[0].T


def attribute_pairs(attributes: int) -> list[tuple[int, int]]:
    """The classes, each a pair of attributes."""
    return list(itertools.combinations(range(attributes), 2))


def attribute_directions(seed: int, attributes: int, width: int) -> np.ndarray:
    """``(C, width)`` of length 1: the sums of all pairs of orthogonal attribute vectors."""
    vectors = attribute_vectors(seed, attributes, width)
    pairs = np.array([vectors[first] + vectors[second] for first, second in attribute_pairs(attributes)])
    return pairs / np.linalg.norm(pairs, axis=1, keepdims=True)


def mapped_world(settings: PlantedSettings) -> PlantedWorld:
    """A world of ``settings`` as described above, with `ATTRIBUTES` attributes."""
    rng = np.random.default_rng([settings.seed, 13])
    turn = np.linalg.qr(rng.standard_normal((settings.width, settings.width)))[0]
    shown = attribute_vectors(settings.seed, ATTRIBUTES, settings.width) @ turn
    both = np.concatenate([shown, rng.standard_normal((SCENES, settings.width))])
    scenes = np.linalg.qr(both.T)[0].T[ATTRIBUTES:]  # at right angles to all attributes
    pairs = attribute_pairs(ATTRIBUTES)

    def paint(
        rng: np.random.Generator, features: np.ndarray, second: np.ndarray, segments: np.ndarray, labels: np.ndarray
    ) -> None:
        for (start, end), label in zip(segments, labels, strict=True):
            first, last = pairs[label]
            middle = (start + end) // 2
            features[start:middle] += settings.strength * shown[first]
            features[middle:end] += settings.strength * shown[last]
        for start, end in free_stretches(rng, len(features), segments, STRETCHES, (3, 10)):
            look = shown[rng.integers(0, ATTRIBUTES)] if rng.random() < LONE else scenes[rng.integers(0, SCENES)]
            features[start:end] += settings.strength * look

    return plant(settings, attribute_directions(settings.seed, ATTRIBUTES, settings.width), paint)


def write_attribute_world(
    folder: Path, seed: int, share: float = 0.75, splits: int = 10, settings: PlantedSettings = WORLD
) -> None:
    """Write ``annotations.json``, ``features``, ``text.safetensors`` and ``splits`` of a world, all from ``seed``."""
    settings = replace(settings, seed=seed)
    world = mapped_world(settings)
    write_world(world, folder)
    text = torch.from_numpy(world.directions).float()
    write_text(folder / "text.safetensors", world.classes, {DEFAULT_PROMPT: text}, model="attributes")
    write_splits(folder / "splits", make_splits(world.classes, share, splits, seed))


def trivial(
    data: SplitData, test: DetectionSet, subset: str, protocol: str, thresholds: Sequence[float] | None
) -> dict[str, Any]:
    """What fixed rules give on the unseen classes (see `best_rule`).

    ``text``: the product of rows and class texts. ``map``: the same after a ridge regression from the mean features of
    seen classes to their texts.
    """
    means: list[np.ndarray] = []
    texts: list[np.ndarray] = []
    for label in range(len(data.split.train)):
        own = [_rows_of(one, label) for one in data.slices if (one.labels == label).any()]
        if own:
            means.append(np.concatenate(own).mean(axis=0))
            texts.append(data.text[label].numpy())
    outside = np.concatenate([_rows_of(one, None) for one in data.slices]).mean(axis=0)
    seen, wanted = np.stack(means) - outside, np.stack(texts)
    learned = np.linalg.solve(seen.T @ seen + np.eye(seen.shape[1]), seen.T @ wanted)  # (D, d)
    rows = {video.video: video.features[:].numpy() for video in test.videos}
    text = test.text.numpy()
    found = {
        "text": {video: values @ text.T for video, values in rows.items()},
        "map": {video: (values - outside) @ learned @ text.T for video, values in rows.items()},
    }
    rules = {}
    for name, scores in found.items():
        rules[name] = scores.__getitem__
        rules[f"{name}, smoothed"] = {video: smoothed(values) for video, values in scores.items()}.__getitem__
        # every video has one class: the one of the highest rows
        rules[f"{name}, one class"] = {video: _one_class(values) for video, values in scores.items()}.__getitem__
    videos = [(video.video, video.grid, video.duration) for video in test.videos]
    return best_rule(rules, videos, test.classes, test.database, subset, protocol, thresholds)


def _rows_of(video: Video, label: int | None) -> np.ndarray:
    """Rows ``(N, D)`` of a class, or of background (None)."""
    inside = np.zeros(len(video.features), dtype=bool)
    for (start, end), own in zip(video.segments.tolist(), video.labels.tolist(), strict=True):
        if label is None or own == label:
            inside[max(0, round(start + 0.5)) : round(end + 0.5)] = True
    return video.features[:].numpy()[~inside if label is None else inside]


def _one_class(scores: np.ndarray) -> np.ndarray:
    """Row scores with those of all classes but the video's likeliest at 0, smoothed."""
    scores = smoothed(scores)
    best = np.sort(scores, axis=0)[-5:].mean(axis=0).argmax()
    return np.where(np.arange(scores.shape[1]) == best, scores, 0.0)
