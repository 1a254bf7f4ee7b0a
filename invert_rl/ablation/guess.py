"""What can be answered without looking: constant answers fitted to the training rows, from the text alone.

The control run sees grey videos. Its rewards must stay near these numbers, or the answers leak from somewhere else.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import TypeAlias

import numpy as np

from data_prep.rows import Row
from invert_rl.evaluation.scores.grounding import grounding_metrics
from invert_rl.evaluation.scores.wrong_event import wrong_event_rate
from invert_rl.tasks import TASKS
from rewards.blind import best_verb_set, frequent_verbs
from rewards.verbs import ar_score, vc_score, vd_score

STEPS = 24
"""Borders of a guessed window are multiples of this part of the video."""
ENOUGH = 5
"""A guess for a kind of row needs this many training rows of it; else the guess for all rows is taken."""

Verbs: TypeAlias = tuple[str, ...]


def text_only_guess(train: Sequence[Row], test: Sequence[Row]) -> dict[str, float]:
    """Metrics in percent, as a run's, of the best constant guesses of ``train`` on the one-window rows ``test``.

    Rows without a window, whose query is to be refused, are left out.

    TVG: the window, as parts of the video, with the best mean IoU for queries with the same verbs. VC: the most
    frequent verbs under the same masked query. AR and VD, whose prompts say nothing: the verb of most rows, and the set
    of verbs that earns most as a description (`rewards.blind`).
    Rows need ``verbs`` and ``masked_query`` in ``meta`` (`data_prep.verbs.annotate_missing`).
    """
    train, test = [row for row in train if len(row.windows) == 1], [row for row in test if row.windows]
    windows = _windows(train)
    chosen = [windows.get(_verbs(row), windows[None]) for row in test]
    predicted = [[(first * row.duration, last * row.duration)] for (first, last), row in zip(chosen, test, strict=True)]
    metrics = dict(grounding_metrics(predicted, test))
    rate = wrong_event_rate(predicted, test)
    metrics |= {} if rate is None else {"wrong_event": rate}
    known = [row for row in train if _verbs(row)]
    common = _most_common(known)
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in known:
        groups[row.meta["masked_query"]].append(row)
    masked = {query: _most_common(rows) for query, rows in groups.items()}
    asked = next(task for task in TASKS.values() if task.segment and task.needs_verbs).rows(test)
    count = max(1, len(asked))
    metrics["VC"] = 100 * sum(vc_score(masked.get(r.meta["masked_query"], common), _verbs(r)) for r in asked) / count
    frequent = frequent_verbs(map(_verbs, known))
    metrics["AR"] = 100 * sum(ar_score(frequent[:1], _verbs(r)) for r in asked) / count
    described = best_verb_set(frequent, lambda verbs: _described(verbs, known))
    metrics["VD"] = 100 * _described(described, asked)
    return metrics


def _described(verbs: Verbs, rows: Sequence[Row]) -> float:
    """The mean reward of one description with these verbs, in sentences of three words."""
    counts = Counter(map(_verbs, rows))
    paid = sum(count * vd_score(verbs, asked, words=3 * len(verbs)) for asked, count in counts.items())
    return paid / max(1, len(rows))


def _verbs(row: Row) -> Verbs:
    return tuple(row.meta.get("verbs", ()))


def _most_common(rows: Sequence[Row]) -> Verbs:
    """The verbs of most rows; of equally frequent ones the first by name."""
    counts = Counter(_verbs(row) for row in rows)
    return min(counts, key=lambda verbs: (-counts[verbs], verbs), default=())


def _windows(rows: Sequence[Row]) -> dict[Hashable, tuple[float, float]]:
    """The window of best mean IoU by the verbs of the query, under None that of all rows; parts of the video."""
    groups: dict[Hashable, list[Row]] = defaultdict(list)
    for row in rows:
        groups[_verbs(row)].append(row)
    chosen = {key: group for key, group in groups.items() if len(group) >= ENOUGH}
    return {key: _best_window(group) for key, group in {**chosen, None: list(rows)}.items()}


def _best_window(rows: Sequence[Row]) -> tuple[float, float]:
    truth = np.array([[side / row.duration for side in row.window] for row in rows])  # (n, 2)
    borders = np.arange(STEPS + 1) / STEPS
    first, last = (side.ravel() for side in np.meshgrid(borders, borders, indexing="ij"))
    first, last = first[first < last], last[first < last]  # (candidates,)
    overlap = np.minimum(last[:, None], truth[:, 1]) - np.maximum(first[:, None], truth[:, 0])
    union = (last - first)[:, None] + (truth[:, 1] - truth[:, 0]) - overlap
    iou = np.where(overlap > 0, overlap / union, 0.0).mean(axis=1)
    best = int(iou.argmax())
    return float(first[best]), float(last[best])
