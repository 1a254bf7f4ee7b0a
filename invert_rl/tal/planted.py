"""Generated features with planted actions, in memory and in the layouts of published features.

Rows are noise; a segment of class c adds the direction of c to its rows. Two classes share their direction and are told
apart only by a second channel, as text, audio or a language model would add. Everything follows from a seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.files import atomic_write
from invert_rl.tal.features import Layout
from invert_rl.tal.grid import Grid
from invert_rl.tal.joint import ANNOTATIONS, FEATURES, GRID

CLASSES = ("bow", "clap", "jump", "wave")
TWINS = (0, 1)
"""Classes of one visual direction."""
STRIDE, CLIP, FPS = 4.0, 16.0, 30.0
LAYOUTS = ("npy", "npz", "hdf5")


@dataclass(frozen=True)
class PlantedSettings:
    """What is generated; lengths in rows."""

    train_videos: int = 48
    test_videos: int = 24
    rows: tuple[int, int] = (48, 64)
    """Shortest and longest video."""
    lengths: tuple[int, int] = (3, 20)
    """Shortest and longest action; they are drawn evenly on a logarithmic scale."""
    actions: int = 4
    """Most actions of a video; every video has one at least."""
    gap: int = 2
    """Least background between actions."""
    width: int = 32
    """Channels of the features."""
    second_width: int = 16
    """Channels of the second channel."""
    strength: float = 6.0
    """Length of a class's direction; the noise has 1 per channel."""
    second_strength: float = 6.0
    """The same of the second channel."""
    one_class: bool = False
    """Whether all actions of a video have one class, as in most videos of THUMOS14."""
    seed: int = 0


@dataclass(frozen=True)
class PlantedVideo:
    """One video; segments ``(N, 2)`` are rows, the first and the one after the last."""

    video: str
    subset: str
    features: np.ndarray
    """``(T, width)`` float32."""
    second: np.ndarray
    """``(T, second_width)`` float32."""
    segments: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class PlantedWorld:
    """Videos of the subsets ``training`` and ``validation``, and the directions of the classes."""

    settings: PlantedSettings
    classes: tuple[str, ...]
    videos: list[PlantedVideo]
    directions: np.ndarray
    """``(C, width)`` of the features, of length 1; those of `TWINS` are equal."""
    second_directions: np.ndarray
    """``(C, second_width)`` of the second channel, of length 1."""

    @property
    def layout(self) -> Layout:
        """The layout of what `write_world` writes; the second channel has the same grid."""
        return Layout(self.settings.width, STRIDE, CLIP, FPS)

    def database(self, grid: Grid | None = None) -> dict[str, Any]:
        """The annotations in ActivityNet's layout, in seconds; a row is its stride of frames."""
        grid = grid or self.layout.grid()
        database: dict[str, Any] = {}
        for video in self.videos:
            duration = ((len(video.features) - 1) * grid.stride + grid.clip) / grid.fps
            # Points of a row lie at its middle: a border between two rows is half a row before the second one.
            times = np.clip(grid.seconds(video.segments - 0.5), 0.0, duration)
            database[video.video] = {
                "subset": video.subset,
                "duration": duration,
                "fps": grid.fps,
                "annotations": [
                    {"segment": time, "label": self.classes[label], "label_id": int(label)}
                    for time, label in zip(times.tolist(), video.labels, strict=True)
                ],
            }
        return database

    def with_shuffled_labels(self) -> PlantedWorld:
        """The same world with the labels of the training videos permuted: what is left when nothing can be learned."""
        rng = np.random.default_rng(self.settings.seed + 1)
        training = [video for video in self.videos if video.subset == "training"]
        labels = rng.permutation(np.concatenate([video.labels for video in training]))
        parts = iter(np.split(labels, np.cumsum([len(video.labels) for video in training])[:-1]))
        videos = [replace(video, labels=next(parts)) if video.subset == "training" else video for video in self.videos]
        return replace(self, videos=videos)


Paint = Callable[[np.random.Generator, np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]
"""Adds what a video shows to its noise: gets a generator, the features ``(T, width)``, the second channel
``(T, second_width)``, segments ``(N, 2)`` and labels ``(N,)``, and changes the second and third in place."""


def plant(
    settings: PlantedSettings = PlantedSettings(), directions: np.ndarray | None = None, paint: Paint | None = None
) -> PlantedWorld:
    """A world of ``settings``; ``directions`` ``(C, width)`` replaces the classes of this module by C others.

    Such classes are named ``class_00``, … and have no twins. ``paint`` replaces the one direction per class.
    """
    rng = np.random.default_rng(settings.seed)
    if directions is None:
        classes: tuple[str, ...] = CLASSES
        directions = _directions(rng, len(classes), settings.width)
        directions[TWINS[1]] = directions[TWINS[0]]
    else:
        classes = tuple(f"class_{index:02d}" for index in range(len(directions)))
    second = _directions(rng, len(classes), settings.second_width)
    videos = []
    for number in range(settings.train_videos + settings.test_videos):
        subset = "training" if number < settings.train_videos else "validation"
        rows = int(rng.integers(settings.rows[0], settings.rows[1] + 1))
        segments = _segments(rng, rows, settings)
        labels = rng.integers(0, len(classes), len(segments))
        if settings.one_class:
            labels[:] = labels[0]
        features = rng.standard_normal((rows, settings.width))
        other = rng.standard_normal((rows, settings.second_width))
        if paint is not None:
            paint(rng, features, other, segments, labels)
        else:
            for (start, end), label in zip(segments, labels, strict=True):
                features[start:end] += settings.strength * directions[label]
                other[start:end] += settings.second_strength * second[label]
        videos.append(
            PlantedVideo(
                f"planted_{number:04d}", subset, features.astype(np.float32), other.astype(np.float32), segments, labels
            )
        )
    return PlantedWorld(settings, classes, videos, directions, second)


def write_world(world: PlantedWorld, folder: Path, layout: str = "npy") -> Path:
    """Write ``annotations.json``, ``features`` and ``second``; returns the annotations' path.

    ``layout`` ``npy`` and ``npz`` make folders with a file per video, ``hdf5`` one file ``features.hdf5`` with a key
    per video. Raises `ValueError` for another one.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {LAYOUTS}, not {layout!r}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("features", "second"):
        arrays = {video.video: video.features if name == "features" else video.second for video in world.videos}
        if layout == "hdf5":
            import h5py

            with h5py.File(folder / f"{name}.hdf5", "w") as file:
                for video, rows in arrays.items():
                    file[video] = rows
            continue
        (folder / name).mkdir(exist_ok=True)
        for video, rows in arrays.items():
            if layout == "npy":
                np.save(folder / name / f"{video}.npy", rows)
            else:
                np.savez(folder / name / f"{video}.npz", feats=rows)
    path = folder / "annotations.json"
    with atomic_write(path) as out:
        json.dump({"version": "planted", "database": world.database()}, out)
    return path


def write_joint_world(world: PlantedWorld, folder: Path) -> None:
    """Write the single-file layout of weakly supervised localization (see `invert_rl.tal.joint`).

    The second channel stands behind the features as flow does behind RGB; subsets are ``validation`` for training and
    ``test``, as in THUMOS14. Beside it ``annotations.json`` on that layout's grid.
    """
    notes = folder / ANNOTATIONS
    notes.mkdir(parents=True, exist_ok=True)
    subsets = {"training": "validation", "validation": "test"}
    # GRID puts a row at its first frame, `database` wants the middle of its clip
    database = world.database(replace(GRID, offset=None))
    records = [database[video.video] for video in world.videos]
    for record in records:
        record["subset"] = subsets[record["subset"]]
    rows = [np.concatenate([video.features, video.second], axis=1) for video in world.videos]
    labels = [[entry["label"] for entry in record["annotations"]] for record in records]
    np.save(folder / FEATURES, _objects(rows), allow_pickle=True)
    np.save(notes / "videoname.npy", np.array([video.video.encode() for video in world.videos]))
    np.save(notes / "subset.npy", np.array([record["subset"].encode() for record in records]))
    np.save(notes / "duration.npy", np.array([[record["duration"]] for record in records]))
    np.save(notes / "classlist.npy", np.array([name.encode() for name in world.classes]))
    np.save(notes / "labels.npy", _objects(labels), allow_pickle=True)
    np.save(notes / "labels_all.npy", _objects([sorted(set(names)) for names in labels]), allow_pickle=True)
    segments = [[entry["segment"] for entry in record["annotations"]] for record in records]
    np.save(notes / "segments.npy", _objects(segments), allow_pickle=True)
    for name in ("extracted_fps", "original_fps"):
        np.save(notes / f"{name}.npy", np.full(len(records), GRID.fps))
    with atomic_write(folder / "annotations.json") as out:
        json.dump({"version": "planted", "database": database}, out)


def unit_vectors(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """``(count, width)`` of length 1, at right angles if there is room for so many."""
    if count > width:
        return _directions(rng, count, width)
    return np.linalg.qr(rng.standard_normal((width, count)))[0].T.copy()


def free_stretches(
    rng: np.random.Generator, rows: int, taken: np.ndarray, count: int, lengths: tuple[int, int], gap: int = 1
) -> list[tuple[int, int]]:
    """Up to ``count`` stretches of background, none closer than ``gap`` rows to each other or to those ``taken``."""
    found: list[tuple[int, int]] = []
    blocked = [(int(start), int(end)) for start, end in taken]
    for _ in range(count):
        length = int(rng.integers(lengths[0], lengths[1] + 1))
        if length > rows:
            continue
        start = int(rng.integers(0, rows - length + 1))
        if all(start >= end + gap or start + length + gap <= begin for begin, end in (*blocked, *found)):
            found.append((start, start + length))
    return found


def _directions(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    vectors = rng.standard_normal((count, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _segments(rng: np.random.Generator, rows: int, settings: PlantedSettings) -> np.ndarray:
    """Segments ``(N, 2)`` by time that do not touch; the first always fits."""
    found: list[tuple[int, int]] = []
    low, high = np.log(settings.lengths[0]), np.log(settings.lengths[1] + 1)
    for _ in range(int(rng.integers(1, settings.actions + 1))):
        length = min(int(np.exp(rng.uniform(low, high))), rows)
        start = int(rng.integers(0, rows - length + 1))
        if all(start >= end + settings.gap or start + length + settings.gap <= begin for begin, end in found):
            found.append((start, start + length))
    return np.array(sorted(found))


def _objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array
