"""The embedded default: generated features whose classes share attributes, so that unseen classes can be reached.

A class is the sum of two attribute vectors; the class text is that vector. Unseen classes are new pairs of attributes
that seen classes have with others, as "throw discus" and "hammer throw" share words. An action begins and ends with the
same movement whatever its class and shows its attributes one after the other in between, all turned by a map that must
be learned from the seen classes. Background shows the same: scenes, the movements, single attributes and whole pairs,
mostly that of the video's action, but never between the two movements: only its context tells an action.
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
from invert_rl.psftr.text import DEFAULT_PROMPT, PROMPTS, write_text
from invert_rl.tal.data import Video
from invert_rl.tal.planted import PlantedSettings, PlantedWorld, free_stretches, plant, unit_vectors, write_world
from invert_rl.tal.trivial import best_rule, neighbours_of, smoothed, windows

if TYPE_CHECKING:
    from invert_rl.psftr.experiment import DetectionSet, SplitData

ATTRIBUTES = 6
"""Attribute vectors; 15 classes are their pairs."""
SCENES = 6
STRETCHES = 8
"""Stretches of background, at most, that show something."""
SHARES = (0.6, 0.1, 0.1, 0.1, 0.1)
"""Of them, the shares that show the pair of the video's first action, any pair, one attribute, the movement of a
border, a scene."""
EDGE = 3
"""Rows of an action's beginning and of its end."""
PROMPT_SHARE = 0.5
"""Length of what the prompts of Table 4 but the method's add to all their texts, which have length 1."""
WORLD = PlantedSettings(train_videos=192, test_videos=128, lengths=(10, 20), strength=8.0, one_class=True)


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
    both = np.concatenate([shown, rng.standard_normal((SCENES + 2, settings.width))])
    begins, ends, *scenes = np.linalg.qr(both.T)[0].T[ATTRIBUTES:]  # at right angles to all attributes
    pairs = attribute_pairs(ATTRIBUTES)

    def halves(rows: np.ndarray, label: int) -> None:
        first, last = pairs[label]
        rows[: len(rows) // 2] += settings.strength * shown[first]
        rows[len(rows) // 2 :] += settings.strength * shown[last]

    def paint(
        rng: np.random.Generator, features: np.ndarray, second: np.ndarray, segments: np.ndarray, labels: np.ndarray
    ) -> None:
        for (start, end), label in zip(segments, labels, strict=True):
            features[start : start + EDGE] += settings.strength * begins
            halves(features[start + EDGE : end - EDGE], label)
            features[end - EDGE : end] += settings.strength * ends
        for start, end in free_stretches(rng, len(features), segments, STRETCHES, (4, 12)):
            kind = rng.choice(len(SHARES), p=SHARES)
            if kind < 2:
                halves(features[start:end], int(rng.integers(0, len(pairs)) if kind else labels[0]))
            else:
                looks = (shown, np.stack([begins, ends]), np.stack(scenes))[kind - 2]
                features[start:end] += settings.strength * looks[rng.integers(0, len(looks))]

    return plant(settings, attribute_directions(settings.seed, ATTRIBUTES, settings.width), paint)


def write_attribute_world(
    folder: Path, seed: int, share: float = 0.75, splits: int = 10, settings: PlantedSettings = WORLD
) -> None:
    """Write ``annotations.json``, ``features``, ``text.safetensors`` and ``splits`` of a world, all from ``seed``."""
    settings = replace(settings, seed=seed)
    world = mapped_world(settings)
    write_world(world, folder)
    rng = np.random.default_rng([seed, 29])
    texts = {}
    for prompt in PROMPTS:  # the method's has the class alone, the others a vector of their own beside it
        own = 0.0 if prompt == DEFAULT_PROMPT else PROMPT_SHARE
        texts[prompt] = torch.from_numpy(world.directions + own * unit_vectors(rng, 1, settings.width)).float()
    write_text(folder / "text.safetensors", world.classes, texts, model="attributes")
    write_splits(folder / "splits", make_splits(world.classes, share, splits, seed))


def trivial(
    data: SplitData, test: DetectionSet, subset: str, protocol: str, thresholds: Sequence[float] | None
) -> dict[str, Any]:
    """What fixed rules give on the unseen classes (see `best_rule`).

    ``text``: the product of rows and class texts. ``map``: the same after a ridge regression from the mean features of
    seen classes to their texts. ``map of foreground``: these times what a ridge regression gives each row for being of
    an action of any class. ``neighbours``: how many of the nearest windows of seven training rows
    are, for the class that the map says.
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
    inside = np.concatenate([_rows_of(one, label) for one in data.slices for label in set(one.labels.tolist())])
    background = np.concatenate([_rows_of(one, None) for one in data.slices])
    table = np.concatenate([inside, background]) - outside
    target = np.r_[np.ones(len(inside)), np.zeros(len(background))]
    action = np.linalg.solve(table.T @ table + np.eye(table.shape[1]), table.T @ target)  # (D,)
    rows = {video.video: video.features[:].numpy() for video in test.videos}
    text = test.text.numpy()
    found = {
        "text": {video: values @ text.T for video, values in rows.items()},
        "map": {video: (values - outside) @ learned @ text.T for video, values in rows.items()},
    }
    found["map of foreground"] = {
        video: np.maximum(scores, 0) * smoothed(np.maximum((rows[video] - outside) @ action, 0)[:, None])
        for video, scores in found["map"].items()
    }
    surroundings = np.concatenate([windows(one.features[:].numpy()) for one in data.slices])
    foreground = np.concatenate([_inside(one, None) for one in data.slices])[:, None]
    rules = {}
    for name, scores in found.items():
        rules[name] = scores.__getitem__
        rules[f"{name}, smoothed"] = {video: smoothed(values) for video, values in scores.items()}.__getitem__
        # every video has one class: the one of the highest rows
        rules[f"{name}, one class"] = {video: _one_class(values) for video, values in scores.items()}.__getitem__
    near = {video: neighbours_of(windows(values), surroundings, foreground) for video, values in rows.items()}
    rules["neighbours, one class"] = {
        video: smoothed(near[video]) * (_one_class(scores) > 0).any(axis=0) for video, scores in found["map"].items()
    }.__getitem__
    videos = [(video.video, video.grid, video.duration) for video in test.videos]
    return best_rule(rules, videos, test.classes, test.database, subset, protocol, thresholds)


def _rows_of(video: Video, label: int | None) -> np.ndarray:
    """Rows ``(N, D)`` of a class, or of background (None)."""
    inside = _inside(video, label)
    return video.features[:].numpy()[~inside if label is None else inside]


def _inside(video: Video, label: int | None) -> np.ndarray:
    """Whether each row ``(T,)`` lies in an action of a class, or of any (None)."""
    inside = np.zeros(len(video.features), dtype=bool)
    for (start, end), own in zip(video.segments.tolist(), video.labels.tolist(), strict=True):
        if label is None or own == label:
            inside[max(0, round(start + 0.5)) : round(end + 0.5)] = True
    return inside


def _one_class(scores: np.ndarray) -> np.ndarray:
    """Row scores with those of all classes but the video's likeliest at 0, smoothed."""
    scores = smoothed(scores)
    best = np.sort(scores, axis=0)[-5:].mean(axis=0).argmax()
    return np.where(np.arange(scores.shape[1]) == best, scores, 0.0)
