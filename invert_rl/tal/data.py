"""Videos with features and ground truth on one grid, batches of them, and detections as a results file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.errors import DataError
from invert_rl.tal.annotations import class_names, read_database
from invert_rl.tal.features import Features
from invert_rl.tal.grid import Grid, resize
from invert_rl.tal.windows import cut_segments, padded_length, random_window


@dataclass(frozen=True)
class Video:
    """One video: features ``(T, D)``, segments ``(N, 2)`` in rows of ``grid`` and class ids ``(N,)``."""

    video: str
    duration: float
    """Seconds."""
    grid: Grid
    features: Tensor
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
) -> list[Video]:
    """The videos of ``subset`` (without regard to case) with their features.

    ``classes`` are the names behind the ids (None: those of the file). ``size`` resizes every video to so many rows.
    Raises `DataError` for a subset without an annotated video, an unknown class, and features that are missing or
    do not fit the duration.
    """
    return videos_of(read_database(annotations), str(annotations), features, subset, classes, size, resize_mode)


def videos_of(
    database: dict[str, Any],
    where: str,
    features: Features,
    subset: str,
    classes: Sequence[str] | None = None,
    size: int | None = None,
    resize_mode: str = "actionformer",
) -> list[Video]:
    """As `read_videos`, of what a file held; ``where`` names it in errors."""
    ids = {name: index for index, name in enumerate(classes if classes is not None else class_names(database))}
    there = sorted({str(record.get("subset")) for record in database.values()})
    videos = []
    for video, record in database.items():
        if str(record.get("subset")).casefold() != subset.casefold():
            continue
        duration, fps = float(record["duration"]), record.get("fps")
        rows = torch.from_numpy(features.read(video, duration, fps))
        grid = features.layout.grid(fps)
        if size is not None:
            grid, rows = grid.resized(len(rows), size, duration, resize_mode), resize(rows, size, resize_mode)
        unknown = {entry["label"] for entry in record["annotations"]} - ids.keys()
        if unknown:
            raise DataError(f"{where}: video {video!r} has labels {sorted(unknown)}, none of the {len(ids)} classes")
        times = torch.tensor([entry["segment"] for entry in record["annotations"]], dtype=torch.float64).view(-1, 2)
        labels = torch.tensor([ids[entry["label"]] for entry in record["annotations"]], dtype=torch.long)
        videos.append(Video(video, duration, grid, rows, grid.row(times).float(), labels))
    if not any(len(video.labels) for video in videos):
        raise DataError(f"{where}: no annotated video in subset {subset!r}; subsets: {', '.join(there)}")
    return videos


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
    features = videos[0].features.new_zeros(len(videos), rows, videos[0].features.shape[1])
    mask = torch.zeros(len(videos), rows, dtype=torch.bool)
    for place, video in enumerate(videos):
        features[place, : len(video.features)] = video.features
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
