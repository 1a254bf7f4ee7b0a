"""Which view of which row stands at each place of a run: a function of the seed and the place alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from data_prep.errors import DataError
from data_prep.rows import Row


class Mixture:
    """The samples of a run, epoch after epoch.

    Args:
        pools: rows by view.
        weights: how often an epoch has each row of a view: 1 once, 0.5 a random half of the rows, 0 not at all.
        seed: of the order and of the halves.

    Raises `DataError` where nothing is left.
    """

    def __init__(self, pools: Mapping[str, Sequence[Row]], weights: Mapping[str, float], seed: int) -> None:
        self.pools = {view: list(rows) for view, rows in pools.items() if rows and weights.get(view, 0) > 0}
        self.counts = {view: max(1, round(weights[view] * len(rows))) for view, rows in self.pools.items()}
        if not self.pools:
            raise DataError("there is nothing to train on: every view has weight 0 or no rows")
        self.seed = seed
        self._order = lru_cache(maxsize=2)(self._draw_epoch)

    def __len__(self) -> int:
        """Samples of an epoch."""
        return sum(self.counts.values())

    def at(self, place: int) -> tuple[str, Row]:
        """The view and row at a place of the run, counted from 0 over the epochs."""
        epoch, offset = divmod(place, len(self))
        view, index = self._order(epoch)[offset]
        return view, self.pools[view][index]

    def instead(self, view: str, place: int, attempt: int) -> Row:
        """The row that takes the place of one that cannot be used, the ``attempt``-th time from 0."""
        rows = self.pools[view]
        return rows[int(self.generator(place, 1 + attempt).integers(len(rows)))]

    def generator(self, place: int, purpose: int = 0) -> np.random.Generator:
        """The random numbers of a place."""
        return np.random.default_rng([self.seed, 1, place, purpose])

    def steps(self, epochs: float, batch: int) -> int:
        """Optimizer steps of ``batch`` samples that ``epochs`` passes need."""
        return math.ceil(epochs * len(self) / batch)

    def _draw_epoch(self, epoch: int) -> list[tuple[str, int]]:
        rng = np.random.default_rng([self.seed, 0, epoch])
        entries: list[tuple[str, int]] = []
        for view, rows in self.pools.items():
            times, rest = divmod(self.counts[view], len(rows))
            chosen = [*range(len(rows))] * times + rng.permutation(len(rows))[:rest].tolist()
            entries += [(view, index) for index in chosen]
        return [entries[index] for index in rng.permutation(len(entries))]
