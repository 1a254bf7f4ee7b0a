"""Videos with features and ground truth on one grid, batches of them, and detections as a results file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.errors import DataError
from invert_rl.tal.annotations import class_names, read_database
from invert_rl.tal.features import Features, Rows
from invert_rl.tal.grid import Grid, LengthError
from invert_rl.tal.misfits import inspect_features
from invert_rl.tal.windows import cut_segments, padded_length, random_window


@dataclass(frozen=True)
class Video:
    """One video: features ``(T, D)``, segments ``(N, 2)`` in rows of ``grid`` and class ids ``(N,)``.

    Features are a tensor, or `Rows` that are read slice by slice.
    """

    video: str
    duration: float
    """Seconds."""
    grid: Grid
    features: Tensor | Rows
    segments: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Batch:
    """Padded videos or windows: features ``(B, T, D)``, mask ``(B, T)``, and per video segments and class ids."""

    features: Tensor
    mask: Tensor
    segments: list[Tensor]
    labels: list[Tensor]


def read_videos(
    annotations: Path,
    features: Features,
    subset: str,
    classes: Sequence[str] | None = None,
    size: int | None = None,
    resize_mode: str = "actionformer",
    policy: str = "error",
) -> list[Video]:
    """The videos of ``subset`` (without regard to case) with their features.

    ``classes`` are the names behind the ids (None: those of the file). ``size`` resizes every video to so many rows.
    ``policy`` as in `invert_rl.tal.misfits.POLICIES`. Raises `DataError` for a subset without an annotated video, an
    unknown class, and features that the policy refuses.
    """
    database = read_database(annotations)
    left_out = inspect_features(features, database, [subset], size is not None).check(policy, str(annotations))
    return videos_of(database, str(annotations), features, subset, classes, size, resize_mode, left_out)


def videos_of(
    database: dict[str, Any],
    where: str,
    features: Features,
    subset: str,
    classes: Sequence[str] | None = None,
    size: int | None = None,
    resize_mode: str = "actionformer",
    left_out: Collection[str] = (),
    downsample: int = 1,
    need_annotated: bool = True,
) -> list[Video]:
    """As `read_videos`, of what a file held and `inspect_features` has seen; ``where`` names the file in errors.

    Without the videos ``left_out``. Of ``downsample`` rows one is taken. ``need_annotated``: the subset must have an
    annotated video.
    """
    ids = {name: index for index, name in enumerate(classes if classes is not None else class_names(database))}
    there = sorted({str(record.get("subset")) for record in database.values()})
    videos = []
    for video, record in database.items():
        if str(record.get("subset")).casefold() != subset.casefold() or video in left_out:
            continue
        duration = float(record["duration"])
        grid, rows = rows_of(features, video, duration, record.get("fps"), size, resize_mode, downsample)
        unknown = {entry["label"] for entry in record["annotations"]} - ids.keys()
        if unknown:
            raise DataError(f"{where}: video {video!r} has labels {sorted(unknown)}, none of the {len(ids)} classes")
        times = torch.tensor([entry["segment"] for entry in record["annotations"]], dtype=torch.float64).view(-1, 2)
        labels = torch.tensor([ids[entry["label"]] for entry in record["annotations"]], dtype=torch.long)
        videos.append(Video(video, duration, grid, rows, grid.row(times).float(), labels))
    if need_annotated and not any(len(video.labels) for video in videos):
        raise DataError(f"{where}: no annotated video in subset {subset!r}; subsets: {', '.join(there)}")
    return videos


def rows_of(
    features: Features,
    video: str,
    duration: float,
    fps: float | None,
    size: int | None = None,
    mode: str = "actionformer",
    downsample: int = 1,
) -> tuple[Grid, Rows]:
    """The grid and the rows of a video, resized to ``size`` and taken one of ``downsample`` where asked for.

    Resized features whose length does not fit the duration are spread over the duration; ``opentad`` always does so.
    """
    rows = features.rows(video)
    if size is not None and mode == "opentad":
        return Grid(size / duration, 1.0, 1.0, offset=0.0), replace(rows, step=downsample, size=size, mode=mode)
    grid = features.layout.grid(fps)
    if downsample > 1:
        rows, grid = replace(rows, step=downsample), replace(grid, stride=grid.stride * downsample)
    if size is None:
        return grid, rows
    count, rows = len(rows), replace(rows, size=size, mode=mode)
    try:
        grid.check_length(count, duration, video)
    except LengthError:
        return Grid(size / duration, 1.0, 1.0), rows
    return grid.resized(count, size, duration, mode), rows


def window_of(video: Video, start: int, size: int, least: float = 0.75) -> Video:
    """Rows ``start`` to ``start + size`` of a video as a video of its own (see `cut_segments`)."""
    segments, index = cut_segments(video.segments, start, size, least)
    rows = video.features[start : start + size]
    return replace(video, grid=video.grid.window(start), features=rows, segments=segments, labels=video.labels[index])


def random_batch(
    videos: Sequence[Video], count: int, size: int, generator: np.random.Generator, least: float = 0.75
) -> Batch:
    """``count`` different videos (all, if there are fewer), of each a random window, padded to ``size`` rows."""
    chosen = generator.choice(len(videos), min(count, len(videos)), replace=False)
    windows = []
    for index in chosen:
        video = videos[int(index)]
        start, length = random_window(video.segments, len(video.features), size, generator, least)
        windows.append(window_of(video, start, length, least))
    return pad(windows, size)


def pad(videos: Sequence[Video], size: int, multiple: int = 1) -> Batch:
    """Videos as one batch of ``size`` rows, or where one is longer, of the next multiple of ``multiple``."""
    rows = padded_length(max(len(video.features) for video in videos), size, multiple)
    features = torch.zeros(len(videos), rows, videos[0].features.shape[1])
    mask = torch.zeros(len(videos), rows, dtype=torch.bool)
    for place, video in enumerate(videos):
        features[place, : len(video.features)] = video.features[:]
        mask[place, : len(video.features)] = True
    return Batch(features, mask, [video.segments for video in videos], [video.labels for video in videos])


def results_of(
    detections: Iterable[tuple[Video, Tensor, Tensor, Tensor]], classes: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """``{video: [{"segment", "label", "score"}]}`` as ``invert-rl evaluate-detection`` reads it, in seconds.

    Takes each video with its segments ``(N, 2)`` in rows, scores ``(N,)`` and class ids ``(N,)``.
    """
    results = {}
    for video, segments, scores, labels in detections:
        times = video.grid.segments_in_seconds(segments.double(), video.duration).tolist()
        results[video.video] = [
            {"segment": time, "label": classes[label], "score": score}
            for time, score, label in zip(times, scores.tolist(), labels.tolist(), strict=True)
        ]
    return results
