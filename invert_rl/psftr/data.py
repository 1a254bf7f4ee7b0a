"""The zero-shot view of annotations, slices for training, and the batches of a run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.errors import DataError
from invert_rl.evaluation.detection.files import scored_annotations
from invert_rl.tal.data import Video, pad, window_of
from invert_rl.tal.features import Layout
from invert_rl.tal.windows import window_starts


@dataclass(frozen=True)
class GtFilter:
    """Ground truth that is left out of training and evaluation alike."""

    videos: tuple[str, ...] = ()
    """Videos that are left out."""
    rows: float = 0.0
    """A segment must be longer than so many rows of the features."""
    seconds: float = 0.0
    """A segment must be longer than so many seconds."""


GT_FILTERS = {
    "none": GtFilter(),
    "gap_thumos14": GtFilter(
        videos=tuple(f"video_test_{number:07d}" for number in (270, 504, 814, 1292, 1496)), rows=1.0
    ),
    "gap_activitynet": GtFilter(seconds=1.0),
}
"""By name: all ground truth, and what GAP's code leaves out [R GAP]. Numbers of different filters do not compare."""


def filter_ground_truth(database: dict[str, Any], name: str, layout: Layout) -> tuple[dict[str, Any], int]:
    """A copy of an annotation database without what `GT_FILTERS` ``[name]`` leaves out, and how many segments went.

    Raises `DataError` for another name.
    """
    if name not in GT_FILTERS:
        raise DataError(f"gt_filter: {name!r} is none of {', '.join(GT_FILTERS)}")
    rule = GT_FILTERS[name]
    kept, dropped = {}, 0
    for video, record in database.items():
        if video in rule.videos:
            dropped += len(scored_annotations(record))
            continue
        least = rule.seconds
        fps = layout.fps or record.get("fps")
        if rule.rows and fps:
            least = max(least, rule.rows * layout.stride / fps)
        kept[video] = dict(record)
        if rule.rows or rule.seconds:
            kept[video] |= _where(record, partial(_longer, least))
        dropped += len(scored_annotations(record)) - len(scored_annotations(kept[video]))
    return kept, dropped


def of_classes(database: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """A copy with the annotations of ``classes`` alone; videos that have none are left out."""
    wanted = set(classes)
    chosen = {}
    for video, record in database.items():
        entries = _where(record, lambda entry: entry["label"] in wanted)
        if any(entries.values()):
            chosen[video] = {**record, **entries}
    return chosen


def _longer(seconds: float, entry: dict[str, Any]) -> bool:
    return bool(entry["segment"][1] - entry["segment"][0] > seconds)


def _where(record: dict[str, Any], keep: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The chosen ones of a video's annotations, and of those that published numbers count where they differ."""
    return {
        name: [copy.copy(entry) for entry in record[name] if keep(entry)]
        for name in ("annotations", "published")
        if name in record
    }


def training_slices(videos: Sequence[Video], size: int | None, overlap: float) -> list[Video]:
    """Slices of ``size`` rows that overlap by ``overlap`` and hold one ground truth at least; None: whole videos.

    A ground truth belongs to a slice that it lies in by three quarters or more. Raises `DataError` where no slice
    has one.
    """
    slices = []
    for video in videos:
        rows = len(video.features)
        for start in window_starts(rows, size, overlap) if size else [0]:
            window = window_of(video, start, size or rows)
            if len(window.labels):
                slices.append(window)
    if not slices:
        raise DataError(f"no slice of {size} rows holds a ground truth; is slice_size in rows of these features?")
    return slices


def normalized(segments: Tensor, rows: int) -> Tensor:
    """Centre and width in [0, 1] of segments ``(N, 2)`` in rows of a slice; row r stands at (r + 0.5) / rows."""
    borders = ((segments + 0.5) / rows).clamp(0, 1)
    return torch.stack([borders.mean(dim=1), borders[:, 1] - borders[:, 0]], dim=1)


class SliceBatches:
    """The batches of a run: ``batches(step, part)`` follows from the seed and these numbers alone.

    Every epoch goes once through all slices in an order of its own; an epoch's last batch ends in the next epoch.
    """

    def __init__(
        self,
        slices: Sequence[Video],
        text: Tensor,
        batch_size: int,
        parts: int,
        seed: int,
        size: int | None = None,
        least_classes: int | None = None,
    ) -> None:
        """``text`` ``(K, d)`` of the seen classes; ``parts`` as in `StepBatches`; ``size`` pads slices to so many rows.

        ``least_classes``: every batch is given a random number of classes, so many at least: those of its ground
        truth and random others, so that no single set of candidates is learned [C]. None: all of them.
        """
        self.slices, self.text, self.batch_size, self.parts, self.seed = slices, text, batch_size, parts, seed
        self.size, self.least_classes = size, least_classes

    def __call__(self, step: int, part: int) -> dict[str, Any]:
        first = (step * self.parts + part) * self.batch_size
        places = [self._place(first + number) for number in range(self.batch_size)]
        batch = pad([self.slices[place] for place in places], self.size or 1)
        classes = self._classes(torch.cat(batch.labels), step, part)
        new = torch.full((len(self.text),), -1, dtype=torch.long)
        new[classes] = torch.arange(len(classes))
        lengths = batch.mask.sum(dim=1).tolist()
        return {
            "features": batch.features,
            "mask": batch.mask,
            "text": self.text[classes],
            "segments": [normalized(of_slice, rows) for of_slice, rows in zip(batch.segments, lengths, strict=True)],
            "labels": [new[of_slice] for of_slice in batch.labels],
        }

    def _place(self, index: int) -> int:
        """The slice at place ``index`` of the endless sequence of shuffled epochs."""
        epoch, place = divmod(index, len(self.slices))
        return int(np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.slices))[place])

    def _classes(self, labels: Tensor, step: int, part: int) -> Tensor:
        """Classes that the batch is given, in random order."""
        total = len(self.text)
        if self.least_classes is None or self.least_classes >= total:
            return torch.arange(total)
        rng = np.random.default_rng((self.seed, 1, step, part))
        present = set(labels.tolist())
        order = rng.permutation(total).tolist()
        count = max(len(present), int(rng.integers(self.least_classes, total + 1)))
        others = [index for index in order if index not in present][: count - len(present)]
        chosen = present | set(others)
        return torch.tensor([index for index in order if index in chosen])
