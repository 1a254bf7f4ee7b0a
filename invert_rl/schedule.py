"""Which task and which rows each generation round gets: pure functions of the seed and the round's number.

A round is the unit in which completions are generated together. Its task is TVG with probability p, otherwise one
of the other chosen tasks with equal probability (paper, section 2.4 and eq. 13). Nothing here is checkpointed,
broadcast or stateful, so ranks, resumed runs and epochs cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from invert_rl.curriculum import CurriculumRows
from invert_rl.tasks import DEFAULT_TASKS, TASKS, get_task

COIN, ORDER, REPLACEMENT, TARGET, SAMPLING, CURRICULUM, RATING, FRAMES = range(8)
"""Independent random streams under one seed."""


def generator(seed: int, stream: int, *counter: int) -> np.random.Generator:
    """A random generator that depends on nothing but its arguments."""
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(stream, *counter)))


class Draw(NamedTuple):
    """One place in a generation round: which task, which row, and where in the run it stands."""

    task: str
    row: int
    round: int
    slot: int


@dataclass(frozen=True)
class TaskSchedule:
    """The coin of the method: ``schedule(k)`` is the task of generation round ``k``."""

    seed: int = 42
    tvg_probability: float = 0.8
    tasks: Sequence[str] = DEFAULT_TASKS
    tvg_from: int = 0
    """First round that may be TVG; before it the rounds are inverted tasks."""
    tvg_only_from: int | None = None
    """First round from which on every round is TVG; None, or without TVG among the tasks: never."""

    def __post_init__(self) -> None:
        if not 0 <= self.tvg_probability <= 1:
            raise ValueError(f"tvg_probability must be in [0, 1], found {self.tvg_probability}")
        if not self.tasks:
            raise ValueError(f"tasks is empty; choose from {', '.join(TASKS)}")
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks names a task twice: {list(self.tasks)}")
        for name in self.tasks:
            get_task(name)
        if not self.forward and self.tvg_probability > 0:
            known = ", ".join(name for name, task in TASKS.items() if task.forward)
            raise ValueError(
                f"tasks {list(self.tasks)} leave out {known}, but tvg_probability is {self.tvg_probability}; "
                f"add {known} or set tvg_probability to 0"
            )

    @property
    def forward(self) -> tuple[str, ...]:
        """The chosen tasks that are drawn with probability p: TVG, and those of plugins that say so."""
        return tuple(name for name, task in TASKS.items() if task.forward and name in self.tasks)

    @property
    def inverted(self) -> tuple[str, ...]:
        """The other chosen tasks, in the library's order."""
        return tuple(name for name, task in TASKS.items() if not task.forward and name in self.tasks)

    @property
    def possible(self) -> tuple[str, ...]:
        """The chosen tasks that can come up."""
        return self.forward if self.forward and self.tvg_probability == 1 else tuple(self.tasks)

    def __call__(self, round_number: int) -> str:
        """The task of a generation round (counted from 0 over the whole run)."""
        coin = generator(self.seed, COIN, round_number)
        late = self.tvg_only_from is not None and round_number >= self.tvg_only_from and bool(self.forward)
        if not self.inverted or late:
            return _one_of(self.forward, coin)
        if coin.random() < self.tvg_probability and round_number >= self.tvg_from:
            return _one_of(self.forward, coin)
        return self.inverted[int(coin.integers(len(self.inverted)))]


def _one_of(names: Sequence[str], coin: np.random.Generator) -> str:
    return names[0] if len(names) == 1 else names[int(coin.integers(len(names)))]


class TaskSampler(Sampler[Draw]):
    """Draws whole generation rounds of one task each, in the layout that TRL's `RepeatSampler` has.

    A round is ``prompts_per_round`` different draws, each ``num_generations`` times in a row, and the round as a
    whole ``repeats`` times (steps_per_generation * num_iterations). The rows of a task come in seeded passes over
    all rows that the task can use; the n-th use of a task continues where its use before ended. Rows with weights or
    first rounds (`invert_rl.curriculum`) are drawn by weight, round by round.

    Args:
        schedule: the coin.
        usable_rows: for each task the indices of the rows that it can use; `CurriculumRows` where they differ.
        prompts_per_round, num_generations, repeats: see above.
        rounds_per_epoch: rounds in one pass of the loader; defaults to one look at as many rows as TVG has.
    """

    def __init__(
        self,
        schedule: TaskSchedule,
        usable_rows: Mapping[str, Sequence[int]],
        prompts_per_round: int,
        num_generations: int,
        repeats: int,
        rounds_per_epoch: int | None = None,
    ) -> None:
        for task in schedule.possible:
            if not len(usable_rows.get(task, ())):
                raise ValueError(f"no row can be used for task {task!r}")
        self.schedule = schedule
        self.usable_rows = usable_rows
        self.prompts_per_round = prompts_per_round
        self.num_generations = num_generations
        self.repeats = repeats
        counted = [usable_rows[task] for task in schedule.forward] or list(usable_rows.values())
        most_rows = max(len(rows) for rows in counted)
        self.rounds_per_epoch = rounds_per_epoch or math.ceil(most_rows / prompts_per_round)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each pass; rounds are counted on over epochs."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rounds_per_epoch * self.prompts_per_round * self.num_generations * self.repeats

    def __iter__(self) -> Iterator[Draw]:
        first = self.epoch * self.rounds_per_epoch
        uses: dict[str, int] = {}
        for round_number in range(first):
            task = self.schedule(round_number)
            uses[task] = uses.get(task, 0) + 1
        for round_number in range(first, first + self.rounds_per_epoch):
            task = self.schedule(round_number)
            draws = self._draws(task, uses.get(task, 0), round_number)
            uses[task] = uses.get(task, 0) + 1
            for _ in range(self.repeats):
                for draw in draws:
                    for _ in range(self.num_generations):
                        yield draw

    def _draws(self, task: str, use: int, round_number: int) -> list[Draw]:
        """The draws of the ``use``-th round of ``task``: consecutive places in its seeded passes over the rows.

        Rows of a curriculum are drawn by weight instead, anew in each round.
        """
        rows = self.usable_rows[task]
        if isinstance(rows, CurriculumRows):
            rng = generator(self.schedule.seed, CURRICULUM, TASKS[task].stream, round_number)
            chosen = rows.draw(round_number, self.prompts_per_round, rng)
            return [Draw(task, row, round_number, slot) for slot, row in enumerate(chosen)]
        orders: dict[int, np.ndarray] = {}
        draws = []
        for slot in range(self.prompts_per_round):
            pass_number, place = divmod(use * self.prompts_per_round + slot, len(rows))
            if pass_number not in orders:
                order = generator(self.schedule.seed, ORDER, TASKS[task].stream, pass_number)
                orders[pass_number] = order.permutation(len(rows))
            draws.append(Draw(task, int(rows[orders[pass_number][place]]), round_number, slot))
        return draws


def replacement(schedule: TaskSchedule, usable_rows: Sequence[int], draw: Draw, attempt: int) -> Draw:
    """The draw that stands in for one whose video cannot be used: the same on every rank and after a resume."""
    pick = generator(schedule.seed, REPLACEMENT, draw.round, draw.slot, attempt)
    if isinstance(usable_rows, CurriculumRows):
        return draw._replace(row=usable_rows.draw(draw.round, 1, pick)[0])
    return draw._replace(row=int(usable_rows[int(pick.integers(len(usable_rows)))]))
