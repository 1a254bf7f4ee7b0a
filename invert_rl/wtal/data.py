"""Videos of two-stream snippets with classes but no times, and the batches that are drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.errors import DataError
from invert_rl.tal.annotations import class_names, read_database
from invert_rl.tal.feature_arguments import FeatureArguments
from invert_rl.tal.features import Rows
from invert_rl.tal.grid import Grid
from invert_rl.tal.joint import read_joint_features
from invert_rl.tal.misfits import FeatureReport
from invert_rl.tal.planted import PlantedWorld


@dataclass(frozen=True)
class WeakVideo:
    """One video for training or test: nothing in it says when its classes happen."""

    video: str
    duration: float
    """Seconds."""
    grid: Grid
    """Row r begins at ``grid.seconds(r)``: borders of proposals are borders of snippets."""
    features: Tensor | Rows
    """``(T, D)``: RGB, then flow."""
    labels: Tensor
    """``(C,)``: 1.0 for classes of the video, 0.0 for others."""


@dataclass(frozen=True)
class WeakData:
    """Training and test videos, the classes, and the test videos' times for the evaluator alone."""

    classes: tuple[str, ...]
    train: list[WeakVideo]
    test: list[WeakVideo]
    database: dict[str, Any]
    """Annotations in ActivityNet's layout."""
    test_subset: str
    features: dict[str, Any] | None = None
    """What was found of extracted features (see `FeatureReport.summary`)."""


def snippet_grid(fps: float = 25.0, stride: float = 16.0, clip: float | None = None) -> Grid:
    """Snippets of ``stride`` frames; row = seconds * fps / stride (25 / 16 in the field's release [R]).

    A row stands for the ``stride`` frames in the middle of the ``clip`` frames that it saw (None: for all of them), so
    that snippets lie end to end also where clips overlap.
    """
    seen = stride if clip is None else clip
    return Grid(fps, stride, stride, offset=(seen - stride) / 2)


def video_labels(names: Sequence[str], classes: Sequence[str], where: str) -> Tensor:
    """``(C,)`` of 0 and 1; raises `DataError` for a name that is none of ``classes``."""
    labels = torch.zeros(len(classes))
    for name in names:
        if name not in classes:
            raise DataError(f"{where}: label {name!r} is none of the {len(classes)} classes")
        labels[list(classes).index(name)] = 1.0
    return labels


def from_joint_file(
    folder: Path,
    allow_pickle: bool,
    train_subset: str,
    test_subset: str,
    width: int | None = None,
    name: str = "Thumos14reduced",
    policy: str = "error",
) -> WeakData:
    """The usual release of one pickled file of features (see `invert_rl.tal.joint`).

    Reading a pickle runs what the file says, so ``allow_pickle`` must be True. ``policy`` says what becomes of odd
    entries (see `invert_rl.tal.misfits.POLICIES`). Raises `DataError` where it is not, for odd entries as ``policy``
    says, and for a subset without a labelled video.
    """
    found = read_joint_features(folder, allow_pickle, width, name, odd="error" if policy == "error" else "keep")
    classes = tuple(sorted({label for video in found for label in video.labels}))
    grid = snippet_grid()
    database: dict[str, Any] = {}
    parts: dict[str, list[WeakVideo]] = {train_subset.casefold(): [], test_subset.casefold(): []}
    report = FeatureReport()
    for video in found:
        database[video.video] = {
            "subset": video.subset,
            "duration": video.duration,
            "annotations": [{"segment": [start, end], "label": label} for start, end, label in video.segments],
        }
        if video.subset.casefold() not in parts:
            continue
        if video.features is None:
            report.odd[video.video] = video.why
            continue
        report.ok.append(video.video)
        labels = video_labels(video.labels, classes, f"{folder}: video {video.video!r}")
        features = torch.from_numpy(video.features)
        parts[video.subset.casefold()].append(WeakVideo(video.video, video.duration, grid, features, labels))
    report.check(policy, str(folder))
    told = report.summary(policy, database, test_subset)
    train, test = parts[train_subset.casefold()], parts[test_subset.casefold()]
    return _checked(WeakData(classes, train, test, database, test_subset, told), train_subset, str(folder))


def from_video_files(args: FeatureArguments, annotations: Path, width: int) -> WeakData:
    """A file of features per video, or one HDF5 file, beside annotations in ActivityNet's layout.

    The labels of a video are the set of its annotations' labels. Raises `DataError` as ``bad_features`` says.
    """
    database = args.with_frame_rates(read_database(annotations))
    classes = tuple(class_names(database))
    source = args.open_features(width)
    report, left_out = args.select(source, database, (args.train_subset, args.test_subset), str(annotations))
    parts: dict[str, list[WeakVideo]] = {args.train_subset.casefold(): [], args.test_subset.casefold(): []}
    for video, record in database.items():
        subset = str(record.get("subset")).casefold()
        if subset not in parts or video in left_out:
            continue
        names = [entry["label"] for entry in record["annotations"]]
        labels = video_labels(names, classes, f"{annotations}: video {video!r}")
        own = source.layout.grid(record.get("fps"))
        grid = snippet_grid(own.fps, own.stride, own.clip)
        parts[subset].append(WeakVideo(video, float(record["duration"]), grid, source.rows(video), labels))
    train, test = parts[args.train_subset.casefold()], parts[args.test_subset.casefold()]
    told = report.summary(args.bad_features, database, args.test_subset)
    data = WeakData(classes, train, test, database, args.test_subset, told)
    return _checked(data, args.train_subset, str(annotations))


def from_planted(world: PlantedWorld) -> WeakData:
    """A generated world: its features stand for RGB, its second channel for flow."""
    grid = snippet_grid()
    database = world.database(replace(grid, offset=None))  # it wants rows at their middle
    parts: dict[str, list[WeakVideo]] = {"training": [], "validation": []}
    for video in world.videos:
        labels = torch.zeros(len(world.classes))
        labels[torch.from_numpy(video.labels)] = 1.0
        rows = torch.from_numpy(np.concatenate([video.features, video.second], axis=1))
        parts[video.subset].append(WeakVideo(video.video, database[video.video]["duration"], grid, rows, labels))
    return WeakData(world.classes, parts["training"], parts["validation"], database, "validation")


def _checked(data: WeakData, train_subset: str, where: str) -> WeakData:
    subsets = sorted({str(record["subset"]) for record in data.database.values()})
    for videos, subset in ((data.train, train_subset), (data.test, data.test_subset)):
        if not any(bool(video.labels.any()) for video in videos):
            raise DataError(f"{where}: no labelled video in subset {subset!r}; subsets: {', '.join(subsets)}")
    return data


def stratified_rows(rows: int, size: int, generator: np.random.Generator) -> np.ndarray:
    """Indices ``(size,)`` that never fall of ``rows`` rows: one of each of ``size`` equal strata [R random_perturb].

    A stratum reaches to the first row of the next one, with it; shorter videos have rows more than once.
    """
    if rows == size:
        return np.arange(size)
    first = (np.arange(size) * rows) // size
    last = np.append(first[1:], rows - 1)
    return generator.integers(first, np.maximum(first, last) + 1)


def draw_videos(
    labels: Tensor, count: int, pairs: int, generator: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Indices ``(count,)`` of videos and places of pairs among them that share a class [R wsad_dataset].

    ``labels`` ``(N, C)``. ``pairs`` times a class is drawn that two videos have, and two of them; the rest are drawn
    from all videos, any of them more than once. Fewer pairs are drawn where ``count`` has no room for them or no two
    videos share a class. Raises `ValueError` where ``count`` is not positive.
    """
    if count < 1:
        raise ValueError(f"a batch needs at least one video, not {count}")
    shared = torch.nonzero(labels.sum(dim=0) >= 2)[:, 0].numpy()
    pairs = min(pairs, count // 2) if len(shared) else 0
    chosen: list[int] = []
    for _ in range(pairs):
        members = torch.nonzero(labels[:, int(generator.choice(shared))])[:, 0].numpy()
        chosen += generator.choice(members, 2, replace=False).tolist()
    rest = generator.integers(0, len(labels), count - len(chosen))
    return np.array([*chosen, *rest], dtype=int), [(2 * place, 2 * place + 1) for place in range(pairs)]
