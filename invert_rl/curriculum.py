"""Which rows come up more often, and from when on: plain columns of a row's ``meta``, per task or for all tasks.

``weight`` (default 1) is how often a row is drawn compared with the others; 0 leaves it out. ``from_round`` (default
0) is the first generation round in which it may come up. Each is a number, or a mapping from tasks to numbers such as
``{"tvg": 1, "vc": 0.5}``. Ratings of `invert-rl rate-difficulty` become weights by `weigh_by_difficulty`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import overload

import numpy as np

from data_prep.errors import DataError
from data_prep.rows import Row

MEASURES = ("mean_reward", "solve_rate")
"""What `invert-rl rate-difficulty` writes into ``meta``, each a mapping from tasks to numbers in [0, 1]."""


class CurriculumRows(Sequence[int]):
    """Indices of rows with a weight and a first round each.

    ``indices``, ``weights`` (positive) and ``from_round`` are parallel. As a sequence it is the indices.
    """

    def __init__(self, indices: Sequence[int], weights: Sequence[float], from_round: Sequence[int]) -> None:
        self.indices = np.asarray(indices, dtype=np.int64)
        self.weights = np.asarray(weights, dtype=np.float64)
        self.from_round = np.asarray(from_round, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> list[int]: ...
    def __getitem__(self, place: int | slice) -> int | list[int]:
        found = self.indices[place]
        return found.tolist() if isinstance(place, slice) else int(found)

    def draw(self, round_number: int, count: int, rng: np.random.Generator) -> list[int]:
        """``count`` rows for a round, by weight and without repetition among those whose time has come.

        If fewer rows than ``count`` are allowed yet, they are taken again in the same order. Rows are ordered by
        exponential random numbers divided by their weights (Efraimidis and Spirakis 2006), so that each next row is
        drawn in proportion to its weight among those left.
        """
        keys = rng.standard_exponential(len(self.indices)) / self.weights
        order = np.argsort(np.where(self.from_round <= round_number, keys, np.inf), kind="stable")
        order = order[: int((self.from_round <= round_number).sum())]
        return [int(self.indices[order[slot % len(order)]]) for slot in range(count)]


def curriculum_rows(rows: Sequence[Row], usable: Sequence[int], task: str) -> Sequence[int]:
    """The rows among ``usable`` that ``task`` may draw: a plain list if all count alike, else `CurriculumRows`.

    Raises `DataError` for a column that is no such number, and where no row is left or none may come up in round 0.
    """
    weights = {index: column(rows[index], "weight", task, 1.0) for index in usable}
    kept = [index for index in usable if weights[index] > 0]
    first = {index: column(rows[index], "from_round", task, 0.0) for index in kept}
    if usable and not kept:
        raise DataError(f"task {task!r}: all of its {len(usable)} rows have weight 0; train without it, see --tasks")
    if kept and min(first.values()) > 0:
        raise DataError(
            f"task {task!r}: no row may come up in round 0, the first has from_round {min(first.values()):g}; set some "
            "to 0 or train without the task"
        )
    late = next((index for index in kept if first[index] != int(first[index])), None)
    if late is not None:
        raise DataError(f"row {rows[late].id!r}: meta.from_round must be a whole number, found {first[late]}")
    if len({weights[index] for index in kept}) <= 1 and not any(first.values()):
        return kept
    return CurriculumRows(kept, [weights[index] for index in kept], [int(first[index]) for index in kept])


def column(row: Row, name: str, task: str, default: float) -> float:
    """``meta[name]`` of a row for ``task``; raises `DataError` if it is not a number of at least 0."""
    value = row.meta.get(name, default)
    if isinstance(value, dict):
        value = value.get(task, default)
    if value is None:  # as parquet fills up
        value = default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise DataError(f"row {row.id!r}: meta.{name} must be a number of at least 0, or one per task; found {value!r}")
    return float(value)


def weigh_by_difficulty(
    rows: Sequence[Row],
    tasks: Iterable[str],
    bounds: Sequence[float],
    outside: float = 0.0,
    measure: str = "mean_reward",
) -> tuple[list[Row], dict[str, int]]:
    """Multiply the weight of rows that the start model finds too hard or too easy by ``outside``; 0 drops them.

    A row counts for a task if its ``measure`` (one of `MEASURES`) is in ``bounds``, both ends included. Rows without
    a rating for the task, whose video could not be used, get weight 0 for it. Returns the rows and, for each task,
    how many are inside. Raises `DataError` for bounds that are not two numbers in [0, 1], for an unknown measure,
    for a negative ``outside``, and for a task for which no row is rated.
    """
    if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= 1:
        raise DataError(f"difficulty_range must be two numbers, 0 <= lowest <= highest <= 1; found {list(bounds)}")
    if measure not in MEASURES:
        raise DataError(f"difficulty_measure {measure!r} is unknown; use {' or '.join(MEASURES)}")
    if outside < 0:
        raise DataError(f"difficulty_outside must not be negative, found {outside}")
    weights: list[dict[str, float]] = [{} for _ in rows]
    inside: dict[str, int] = {}
    for task in tasks:
        ratings = [_rating(row, measure, task) for row in rows]
        if all(rating is None for rating in ratings):
            raise DataError(
                f"difficulty_range: no row has meta.{measure} for task {task!r}; rate the rows with "
                f"`invert-rl rate-difficulty --tasks {task} …` and train on the file that it writes"
            )
        inside[task] = sum(rating is not None and bounds[0] <= rating <= bounds[1] for rating in ratings)
        for row, of_tasks, rating in zip(rows, weights, ratings, strict=True):
            counts = rating is not None and bounds[0] <= rating <= bounds[1]
            factor = 1.0 if counts else 0.0 if rating is None else outside
            of_tasks[task] = factor * column(row, "weight", task, 1.0)
    weighed = [replace(row, meta={**row.meta, "weight": of_tasks}) for row, of_tasks in zip(rows, weights, strict=True)]
    return weighed, inside


def _rating(row: Row, measure: str, task: str) -> float | None:
    rated = row.meta.get(measure)
    rating = rated.get(task) if isinstance(rated, dict) else rated
    if rating is None:
        return None
    if not isinstance(rated, dict) or isinstance(rating, bool) or not isinstance(rating, int | float):
        raise DataError(f"row {row.id!r}: meta.{measure} must have a number for each task, found {rated!r}")
    return rating
