"""Controls of training: questions and answers that lose the video, or the segment, that they are about.

What a model learns from them it learned without looking (docs/proof.md). Evaluate such a run on untouched rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from data_prep.errors import DataError
from data_prep.rows import Row, Window
from invert_rl.tasks import Task
from invert_rl.video.ref import VideoRef


def with_shuffled_videos(rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows, each shown another video of about the same length; question, answer and meta stay.

    Videos (or the clips that rows show of them) are ordered by length, equally long ones by ``seed``, and neighbours
    change places, so that none is shown its own. All rows of a video get the same other one. Windows stay at their
    seconds and are cut where the other video is shorter. Raises `DataError` where there is only one video.
    """
    shown = {(row.video, row.clip): row for row in rows}
    if len(shown) < 2:
        raise DataError("shuffle_videos needs rows of at least two videos")
    rank = dict(zip(sorted(shown, key=str), np.random.default_rng(seed).permutation(len(shown)), strict=True))
    ordered = sorted(shown, key=lambda key: (shown[key].shown_seconds, rank[key]))
    other: dict[tuple[str, Window | None], tuple[str, Window | None]] = {}
    for first in range(0, len(ordered) - 1, 2):
        group = ordered[first : first + 2] if len(ordered) - first != 3 else ordered[first:]
        other.update(zip(group, [*group[1:], group[0]], strict=True))
    return [_shown(row, shown[other[row.video, row.clip]]) for row in rows]


def _shown(row: Row, other: Row) -> Row:
    length = other.shown_seconds
    windows = []
    for start, end in row.clip_windows:
        if start >= length:  # wholly behind its end: as much of its last stretch
            start, end = max(0.0, length - (end - start)), length
        windows.append((other.from_clip(start), other.from_clip(min(end, length))))
    return replace(row, video=other.video, clip=other.clip, duration=other.duration, windows=tuple(windows))


def with_other_segments(tasks: Mapping[str, Task], rows: Sequence[Row], seed: int) -> dict[str, Task]:
    """The tasks, those that show a segment with another row's segment: a placebo, format without meaning.

    Prompt, asked verbs and rewards stay those of the row. Whose segment is shown is drawn by ``seed`` among the rows
    of other videos. Raises `DataError` where all rows show one video.
    """
    used = {row.id: row for task in tasks.values() if task.segment for row in task.rows(rows)}
    order = list(used)
    drawn = [order[place] for place in np.random.default_rng(seed).permutation(len(order))]
    other = {}
    for place, name in enumerate(drawn):
        candidates = (used[drawn[(place + step) % len(drawn)]] for step in range(1, len(drawn)))
        elsewhere = next((row for row in candidates if row.video != used[name].video), None)
        if elsewhere is None:
            raise DataError("placebo_segments needs rows of at least two videos")
        other[name] = elsewhere
    return {name: _elsewhere(task, other) if task.segment else task for name, task in tasks.items()}


def _elsewhere(task: Task, other: Mapping[str, Row]) -> Task:
    kind: Any = type(task)

    class Elsewhere(kind):
        """``task`` that shows the segment of the row that ``other`` names."""

        def video(self, row: Row) -> VideoRef:
            return super().video(other[row.id])

    return Elsewhere(**{item.name: getattr(task, item.name) for item in fields(task)})
