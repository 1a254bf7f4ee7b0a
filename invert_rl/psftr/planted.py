"""The embedded default: generated features whose classes share attributes, so that unseen classes can be reached.

A class is the sum of two attribute vectors; the class text is that vector. Unseen classes are new pairs of attributes
that seen classes have with others, as "throw discus" and "hammer throw" share words.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from invert_rl.psftr.splits import make_splits, write_splits
from invert_rl.psftr.text import DEFAULT_PROMPT, write_text
from invert_rl.tal.planted import PlantedSettings, plant, write_world

ATTRIBUTES = 6
"""Attribute vectors; 15 classes are their pairs."""
WORLD = PlantedSettings(train_videos=128, test_videos=96, strength=8.0, one_class=True)


def attribute_directions(seed: int, attributes: int, width: int) -> np.ndarray:
    """``(C, width)`` of length 1: the sums of all pairs of orthogonal attribute vectors."""
    vectors = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, attributes)))[0].T
    pairs = np.array(
        [vectors[first] + vectors[second] for first, second in itertools.combinations(range(attributes), 2)]
    )
    return pairs / np.linalg.norm(pairs, axis=1, keepdims=True)


def write_attribute_world(
    folder: Path, seed: int, share: float = 0.75, splits: int = 10, settings: PlantedSettings = WORLD
) -> None:
    """Write ``annotations.json``, ``features``, ``text.safetensors`` and ``splits`` of a world, all from ``seed``."""
    settings = replace(settings, seed=seed)
    directions = attribute_directions(seed, ATTRIBUTES, settings.width)
    world = plant(settings, directions)
    write_world(world, folder)
    text = torch.from_numpy(world.directions).float()
    write_text(folder / "text.safetensors", world.classes, {DEFAULT_PROMPT: text}, model="attributes")
    write_splits(folder / "splits", make_splits(world.classes, share, splits, seed))
