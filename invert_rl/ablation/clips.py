"""Differences between runs with the test clips drawn anew as well as the seeds: a bootstrap over both.

An interval over seeds takes the test clips as they are. Of two arms that is a small matter, since both are asked about
the same ones; but a start is one model, and one that was lucky with these clips falls on them whatever happens to it.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import DataError
from data_prep.rows import Row, read_rows
from data_prep.verbs import annotate_missing
from invert_rl.ablation.recipes import VERB_TASKS, VERBS
from invert_rl.ablation.table import CONFIDENCE, Result
from invert_rl.evaluation.predictions import Prediction, read_predictions
from invert_rl.evaluation.scoring import metrics_of
from rewards.errors import RewardError
from rewards.pipelines import load_pipeline

DRAWS = 4000
"""Repetitions of the bootstrap."""
FEWEST = 5
"""Pairs below which seeds drawn anew say too little of how runs scatter."""
EQUAL = 1e-6
"""Points by which a metric may differ from the mean of its rows."""


@dataclass(frozen=True)
class ClipSums:
    """One metric of one evaluation, by clip: its mean over the rows of any clips is ``sums / counts``, both summed."""

    sums: np.ndarray
    """(clips,), points."""
    counts: np.ndarray
    """(clips,): rows of the clip that have the metric."""


def interval_over_clips(
    pairs: Sequence[tuple[Sequence[ClipSums], Sequence[ClipSums]]], draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of the mean difference of pairs, with pairs and clips drawn anew, each by itself.

    Each side of a pair is the parts whose mean is the metric, one for most and three for ``verbs``. The same clips are
    drawn for all pairs and both sides (Efron and Tibshirani 1993, chapters 8 and 13; pairs and clips are crossed). Over
    few pairs such an interval is narrow: with eight, by a fifth against Student's t.
    """
    if not pairs:
        raise ValueError("no pairs to draw from")
    numbers = np.random.default_rng(seed)
    clips = len(pairs[0][0][0].sums)
    drawn_clips = numbers.multinomial(clips, np.full(clips, 1 / clips), size=draws)
    drawn_pairs = numbers.multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=draws)
    differences = np.stack([_drawn(one, drawn_clips) - _drawn(other, drawn_clips) for one, other in pairs], axis=1)
    means = (drawn_pairs * differences).sum(axis=1) / len(pairs)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _drawn(parts: Sequence[ClipSums], drawn: np.ndarray) -> np.ndarray:
    """The metric over each draw of clips, (draws,)."""
    return np.mean([(drawn @ part.sums) / np.maximum(drawn @ part.counts, 1) for part in parts], axis=0)


class ClipReader:
    """Reads metrics by clip from the answers that runs keep; each file and each test set once."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Row]] = {}
        self._scores: dict[tuple[str, Path], list[dict[str, float]]] = {}

    def read(self, result: Result, metric: str, when: str) -> list[ClipSums] | None:
        """The parts of ``metric`` of a run's answers "before" or "after" training.

        None where the run keeps no answers, they cannot be read, or the mean over their rows is not the run's number.
        """
        known = (result.before if when == "before" else result.after).get(metric)
        path = None if result.folder is None else result.folder / f"samples_{when}.jsonl"
        if known is None or path is None or not path.is_file() or not result.settings.get("eval_data"):
            return None
        try:
            rows = self._test_rows(result.settings)
            scores = self._row_scores(path, rows, result.settings)
        except (DataError, RewardError):  # rows that were moved or changed since: their clips are not those asked about
            return None
        parts = [_by_clip(rows, scores, name) for name in (VERB_TASKS if metric == VERBS else (metric,))]
        if any(part.counts.sum() == 0 for part in parts):
            return None
        mean = statistics.fmean(part.sums.sum() / part.counts.sum() for part in parts)
        return parts if abs(mean - known) <= EQUAL else None

    def _test_rows(self, settings: Mapping[str, Any]) -> list[Row]:
        key = _data_key(settings)
        if key not in self._rows:
            self._rows[key] = evaluated_rows(settings)
        return self._rows[key]

    def _row_scores(self, path: Path, rows: Sequence[Row], settings: Mapping[str, Any]) -> list[dict[str, float]]:
        key = (_data_key(settings), path)
        if key not in self._scores:
            of_row: defaultdict[str, list[Prediction]] = defaultdict(list)
            for prediction in read_predictions(path, rows):
                of_row[prediction.id].append(prediction)
            self._scores[key] = [metrics_of(of_row[row.id], [row]) for row in rows]
        return self._scores[key]


def evaluated_rows(settings: Mapping[str, Any]) -> list[Row]:
    """The rows that a run of ``recipes/grpo_invert.py`` with those fields is evaluated on, with their verbs."""
    rows = read_rows(settings["eval_data"])[: settings["eval_samples"]]
    return annotate_missing(rows, load_pipeline(settings["verb_pipeline"]))


def _data_key(settings: Mapping[str, Any]) -> str:
    return repr([settings.get(name) for name in ("eval_data", "eval_samples", "verb_pipeline")])


def _by_clip(rows: Sequence[Row], scores: Sequence[Mapping[str, float]], metric: str) -> ClipSums:
    place = {video: number for number, video in enumerate(dict.fromkeys(row.video for row in rows))}
    sums, counts = np.zeros(len(place)), np.zeros(len(place), dtype=int)
    for row, score in zip(rows, scores, strict=True):
        if metric in score:
            sums[place[row.video]] += score[metric]
            counts[place[row.video]] += 1
    return ClipSums(sums, counts)
