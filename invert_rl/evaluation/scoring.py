"""From predictions to numbers: metrics of each task and how many answers were unparsable, missing or swapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.rows import Row, split_windows
from invert_rl.evaluation.predictions import MISSING_VIDEO, OK, UNPARSABLE, Prediction
from invert_rl.evaluation.scores.grounding import grounding_metrics
from invert_rl.evaluation.scores.qvhighlights import highlight_brief, highlight_metrics, moment_metrics
from invert_rl.tasks import TASKS, Task
from invert_rl.tasks.rewards import content_scores
from invert_rl.video.errors import TOO_LONG

TOLERANCE = 0.01
"""Seconds by which a predicted window may leave the video before it counts as outside: two decimals were asked for."""


def score_answers(
    predictions: Sequence[Prediction],
    rows: Sequence[Row],
    tasks: Mapping[str, Task] = TASKS,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Set ``score`` of the answers by the rewards of their tasks' content (paper, eq. 5 to 7), in [0, 1].

    Answers of tasks that name spans keep theirs: metrics look at the windows. ``rows`` are those that were asked or
    the whole file; ``options`` of rewards are ``verb_match``, ``pipeline`` and so on.
    """
    for name in dict.fromkeys(prediction.task for prediction in predictions):
        task = tasks[name]
        if task.names_spans:
            continue
        by_id = {row.id: row for row in [*rows, *task.rows(rows)]}
        mine = [p for p in predictions if p.task == name and p.id in by_id]
        asked = [by_id[p.id] for p in mine]
        scores = content_scores(task, [p.text for p in mine], asked, task.default_rewards(), options or {})
        for prediction, score in zip(mine, scores, strict=True):
            prediction.score = score


def metrics_of(
    predictions: Sequence[Prediction],
    rows: Sequence[Row],
    strict: bool = False,
    tasks: Mapping[str, Task] = TASKS,
) -> dict[str, float]:
    """Metrics in percent of the predictions of any tasks on ``rows``, in any order.

    TVG gives R1@m, mIoU and n; VC, AR and VD give an accuracy under their label over the rows that have verbs;
    ``unparsable`` is the share of all answers that could not be read, ``missing_video`` the number of answers
    without a usable video. Every row counts, also one without a prediction. ``tasks`` are as they were asked.
    """
    answers = {(prediction.task, prediction.id): prediction for prediction in predictions}
    metrics: dict[str, float] = {}
    for name, task in tasks.items():
        if not any(prediction.task == name for prediction in predictions):
            continue
        used = task.rows(rows)
        asked = [answers.get((name, row.id)) for row in used]
        if any(asked):
            metrics.update(task.metrics(asked, used, strict))
    statuses = [prediction.status for prediction in predictions]
    metrics["unparsable"] = 100 * statuses.count(UNPARSABLE) / max(1, len(statuses))
    metrics["missing_video"] = statuses.count(MISSING_VIDEO)
    return metrics


def counts_of(
    predictions: Sequence[Prediction], rows: Sequence[Row], tasks: Mapping[str, Task] = TASKS
) -> dict[str, dict[str, int]]:
    """For each task that has predictions: how many rows it has and what became of them.

    ``missing``: no prediction; ``missing_video``; ``too_long``: a prompt that does not fit; ``unparsable``: no span
    where one is asked for, or no text; ``swapped``: the first window ends before it starts; ``empty``: it has no
    length; ``outside``: it leaves the video by more than `TOLERANCE`. A status of another program is counted under its
    own name.
    """
    answers = {(prediction.task, prediction.id): prediction for prediction in predictions}
    counts: dict[str, dict[str, int]] = {}
    for name in dict.fromkeys(prediction.task for prediction in predictions):
        used = tasks[name].rows(rows)
        states = ("missing", MISSING_VIDEO, TOO_LONG, UNPARSABLE, "swapped", "empty", "outside")
        found = {"rows": len(used), OK: 0, **dict.fromkeys(states, 0)}
        for row in used:
            for state in _states(answers.get((name, row.id)), row, tasks[name]):
                found[state] = found.get(state, 0) + 1
        counts[name] = found
    return counts


def _states(prediction: Prediction | None, row: Row, task: Task) -> list[str]:
    """What there is to say of one row's prediction: one status, and what is odd about its first window."""
    if prediction is None:
        return ["missing"]
    if prediction.status != OK:
        return [prediction.status]
    if not task.names_spans:
        return [OK if prediction.text.strip() else UNPARSABLE]
    if not prediction.windows:
        return [OK if prediction.text.strip() and task.read(prediction.text, row) is not None else UNPARSABLE]
    start, end = prediction.windows[0]
    states = [OK]
    if end < start:
        states.append("swapped")
    if end == start:
        states.append("empty")
    first, last = row.shown
    if min(start, end) < first - TOLERANCE or max(start, end) > last + TOLERANCE:
        states.append("outside")
    return states


def per_window_metrics(
    predictions: Sequence[Prediction], rows: Sequence[Row], strict: bool = False
) -> dict[str, float]:
    """TVG metrics with one row per ground-truth window (paper, section 3.1), each answered by the row's prediction."""
    answers = {prediction.id: prediction for prediction in predictions if TASKS[prediction.task].forward}
    windows = [answers[row.id].windows if row.id in answers else [] for row in rows for _ in row.windows]
    return grounding_metrics(windows, split_windows(rows), strict)


def moments_of(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
    """QVHighlights' metrics as moment_detr defines them (`invert_rl.evaluation.scores.qvhighlights`)."""
    answers = {prediction.id: prediction for prediction in predictions if TASKS[prediction.task].forward}
    used = [answers.get(row.id) for row in rows]
    return moment_metrics(
        [answer.windows if answer else [] for answer in used],
        [answer.window_scores if answer else [] for answer in used],
        [row.windows for row in rows],
    )


def highlights_of(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
    """QVHighlights' highlight detection, for rows that carry its annotation in ``meta``."""
    saliency = {prediction.id: prediction.saliency for prediction in predictions}
    metrics = highlight_metrics(
        [saliency.get(row.id, []) for row in rows],
        [row.meta["relevant_clip_ids"] for row in rows],
        [row.meta["saliency_scores"] for row in rows],
        [row.duration for row in rows],
    )
    return {"brief": highlight_brief(metrics), **metrics}
