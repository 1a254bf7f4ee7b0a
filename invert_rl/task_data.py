"""Rows seen as tasks: what a `Draw` of the sampler turns into."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.schedule import Draw
from invert_rl.tasks import TASKS, get_task, messages


def check_video_root(rows: Sequence[Row], root: str | os.PathLike[str]) -> None:
    """Refuse a video folder that is not there or holds none of the rows' videos; raises `DataError`.

    Single missing videos are left to the run, which replaces their rows and reports them.
    """
    if not os.path.isdir(root):
        raise DataError(f"{root}: no such video folder")
    names = dict.fromkeys(row.video for row in rows)
    if not any(os.path.exists(os.path.join(root, name)) for name in names):
        raise DataError(
            f"{root}: holds none of the {len(names)} videos that the rows name, such as {next(iter(names))!r}; is "
            "--video_root the folder that the names are relative to?"
        )


class TaskDataset(Dataset):
    """One-window rows that a `Draw` indexes; items are light, without pixels.

    Rows must carry ``verbs`` and ``masked_query`` in ``meta`` (`data_prep.verbs.annotate_verbs`) if an inverted task
    is to be drawn. Raises `DataError` for a row with several windows and for a task that no row can serve.
    """

    def __init__(self, rows: Sequence[Row], tasks: Sequence[str]) -> None:
        self.rows = list(rows)
        if not self.rows:
            raise DataError("there are no rows to train on")
        for row in self.rows:
            row.window  # noqa: B018 - raises for several windows
        self.usable_rows = {name: self._usable(name) for name in tasks}

    def _usable(self, name: str) -> list[int]:
        if not get_task(name).needs_verbs:
            return list(range(len(self.rows)))
        usable = [index for index, row in enumerate(self.rows) if row.meta.get("verbs")]
        if not usable:
            raise DataError(
                f"task {name!r} needs verbs, but none of the {len(self.rows)} rows has meta.verbs: annotate them with "
                "`invert-rl convert … --annotate verbs`, or train with --tasks tvg"
            )
        return usable

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        row = self.rows[draw.row]
        return {
            "prompt": messages(TASKS[draw.task], row),
            "task": draw.task,
            "id": row.id,
            "windows": [list(window) for window in row.windows],
            "duration": row.duration,
            "verbs": list(row.meta.get("verbs", ())),
            "draw": draw,
        }
