"""A curriculum that follows the policy: rows that it always or never solves come up less often.

What a group of completions earned is noted with its round. The weights of round k look at rounds up to k - `LAG` only,
as the loader draws a round's rows while the round before is being generated: so they depend on the round's number and
the notes alone, the same on all ranks and after a resume.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from invert_rl.curriculum import CurriculumRows

LAG = 2
"""Rounds after which a note counts."""

FLOOR = 0.1
"""Weight of a row that is always or never solved, relative to one that is solved half the time or was not asked yet."""

Note = tuple[int, str, int, float]
"""Round, task, number of the row, and the share of its completions that solved it."""


class SolveRates:
    """What is known of the rows, by task; kept in checkpoints as its `notes`."""

    def __init__(self) -> None:
        self.notes: list[Note] = []

    def add(self, notes: Iterable[Note]) -> None:
        """Note what the groups of a round earned."""
        self.notes += [(int(round_), task, int(row), float(rate)) for round_, task, row, rate in notes]

    def factors(self, task: str, indices: np.ndarray, round_number: int) -> np.ndarray:
        """Factors of the weights in a round: 1 without notes, else ``4 r (1 - r)`` of the last, at least `FLOOR`."""
        last = {row: rate for at, of, row, rate in self.notes if of == task and at <= round_number - LAG}
        rates = np.array([last.get(int(index), 0.5) for index in indices])
        return np.maximum(FLOOR, 4 * rates * (1 - rates))


class OnlineRows(CurriculumRows):
    """`CurriculumRows` whose weights are multiplied by `SolveRates.factors` of the round."""

    def __init__(self, rows: Sequence[int], rates: SolveRates, task: str) -> None:
        if isinstance(rows, CurriculumRows):
            super().__init__(rows.indices.tolist(), rows.weights.tolist(), rows.from_round.tolist())
        else:
            super().__init__(list(rows), [1.0] * len(rows), [0] * len(rows))
        self.rates, self.task = rates, task

    def draw(self, round_number: int, count: int, rng: np.random.Generator) -> list[int]:
        """As `CurriculumRows.draw`, by the weights of the round."""
        weights = self.weights * self.rates.factors(self.task, self.indices, round_number)
        known = CurriculumRows(self.indices.tolist(), weights.tolist(), self.from_round.tolist())
        return known.draw(round_number, count, rng)
