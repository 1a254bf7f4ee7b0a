"""Rows seen as tasks: what a `Draw` of the sampler turns into."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from torch.utils.data import Dataset
from transformers import TrainingArguments

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.curriculum import curriculum_rows
from invert_rl.frame_budgets import FrameBudgets
from invert_rl.schedule import Draw, TaskSampler
from invert_rl.tasks import TASKS, Task, messages
from invert_rl.video.ref import VideoRef


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
    """The rows that a `Draw` indexes, each seen as a task; items are light, without pixels.

    ``tasks`` are those that may be drawn, as `invert_rl.tasks.load_preset` words them, or their names for the default
    wording. Each takes the rows that it can be asked of (`Task.rows`: whole, or one per window); ``rows`` holds all of
    these. Rows must carry ``verbs`` and ``masked_query`` in ``meta`` (`data_prep.verbs.annotate_verbs`) for tasks that
    need them; ``weight`` and ``from_round`` in ``meta`` are heeded (`invert_rl.curriculum`). Raises `DataError` for a
    task that no row can serve. ``budgets`` says which frames each draw may have; default: those of the settings.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        tasks: Mapping[str, Task] | Sequence[str],
        budgets: FrameBudgets = FrameBudgets(),  # noqa: B008 (frozen)
    ) -> None:
        self.budgets = budgets
        if not rows:
            raise DataError("there are no rows to train on")
        self.tasks = dict(tasks) if isinstance(tasks, Mapping) else {name: TASKS[name] for name in tasks}
        of_tasks = {name: task.rows(rows) for name, task in self.tasks.items()}
        known = {row.id: row for used in of_tasks.values() for row in used}
        self.rows = list(known.values())
        place = {name: index for index, name in enumerate(known)}
        self.usable_rows = {
            name: self._usable(self.tasks[name], [place[row.id] for row in used], len(rows))
            for name, used in of_tasks.items()
        }

    def _usable(self, task: Task, usable: list[int], count: int) -> Sequence[int]:
        if not usable and task.needs_verbs:
            raise DataError(
                f"task {task.name!r} needs verbs, but none of the {count} rows has meta.verbs: annotate them with "
                "`invert-rl convert … --annotate verbs`, or train with --tasks tvg"
            )
        if not usable:
            raise DataError(f"task {task.name!r} can use none of the {count} rows")
        return curriculum_rows(self.rows, usable, task.name)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        task, row = self.tasks[draw.task], self.rows[draw.row]
        return {"prompt": messages(task, row, self.video(draw)), **task.columns(row), "draw": draw}

    def video(self, draw: Draw) -> VideoRef:
        """What is shown for a draw, with the budgets of its own."""
        return self.budgets(self.tasks[draw.task].video(self.rows[draw.row]), draw)


class Lookahead:
    """What the loader will give in the next round, so that its videos can be decoded ahead.

    Args:
        data: what the sampler's draws index.
        sampler: as the loader has it.
        rank, ranks: which share of a round this process gets; accelerate deals out equal runs of it.
    """

    def __init__(self, data: TaskDataset, sampler: TaskSampler, rank: int, ranks: int) -> None:
        self.data = data
        self.sampler = sampler
        self.rank = rank
        self.ranks = ranks
        self._round = -1
        self._part: list[Draw] = []
        self._rounds: Iterator[list[Draw]] = iter(())

    def part(self, round_number: int) -> list[Draw]:
        """The draws of this rank's part of a round, as the loader gives them: each for as many completions."""
        if round_number != self._round:
            if round_number != self._round + 1:
                self._rounds = _rounds(self.sampler, round_number)
            self._round = round_number
            samples = [draw for draw in next(self._rounds) for _ in range(self.sampler.num_generations)]
            size = len(samples) // self.ranks
            self._part = samples[self.rank * size : (self.rank + 1) * size]
        return self._part

    def after(self, round_number: int) -> list[VideoRef]:
        """The videos and parts that this rank needs in the round after ``round_number``, each once."""
        return list(dict.fromkeys(self.data.video(draw) for draw in dict.fromkeys(self.part(round_number + 1))))


def _rounds(sampler: TaskSampler, first: int) -> Iterator[list[Draw]]:
    """The draws of each round from ``first`` on, over the epochs, without end."""
    size = sampler.prompts_per_round
    copy = TaskSampler(sampler.schedule, sampler.usable_rows, size, 1, 1, sampler.rounds_per_epoch)
    epoch, skipped = divmod(first, sampler.rounds_per_epoch)
    while True:
        copy.set_epoch(epoch)
        draws = islice(iter(copy), skipped * size, None)
        for _ in range(skipped, sampler.rounds_per_epoch):
            yield list(islice(draws, size))
        epoch, skipped = epoch + 1, 0


@contextmanager
def rows_in_this_process(args: TrainingArguments) -> Iterator[None]:
    """Inside, ``args`` ask for no workers of the `DataLoader`, which has only light rows to give.

    The processes of ``dataloader_num_workers`` are the `Prefetcher`'s instead. The DataLoader's would decode a round as
    often as it is repeated, keep the quarantine to themselves, and one that is killed would end the run.
    """
    names = (
        "dataloader_num_workers",
        "dataloader_prefetch_factor",
        "dataloader_persistent_workers",
        "dataloader_multiprocessing_context",
    )
    asked = [getattr(args, name) for name in names]
    for name, value in zip(names, (0, None, False, None), strict=True):
        setattr(args, name, value)
    try:
        yield
    finally:
        for name, value in zip(names, asked, strict=True):
            setattr(args, name, value)


def check_toy_settings(args: Any) -> None:
    """Refuse what names files of a run of one's own where ``train_data`` is left out: the toy world has its own."""
    given = [name for name in ("eval_data", "video_root", "manifest") if getattr(args, name, None) is not None]
    if given:
        raise DataError(f"--{given[0]} needs --train_data: without it the toy world is trained on and evaluated")
