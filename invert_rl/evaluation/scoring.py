"""From predictions to numbers: metrics of each task and how many answers were unparsable, missing or swapped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data_prep.rows import Row, split_windows
from invert_rl.evaluation.grounding import grounding_metrics
from invert_rl.evaluation.predictions import MISSING_VIDEO, OK, UNPARSABLE, Prediction
from invert_rl.evaluation.qvhighlights import highlight_brief, highlight_metrics, moment_metrics
from invert_rl.tasks import INVERTED_TASKS, TASKS
from rewards.pipelines import VerbPipeline
from rewards.verbs import VerbMatch, ar_reward, vc_reward, vd_reward

TOLERANCE = 0.01
"""Seconds by which a predicted window may leave the video before it counts as outside: two decimals were asked for."""


def rows_of_task(task: str, rows: Sequence[Row]) -> list[Row]:
    """The rows that a task is asked of: all for TVG; for VC, AR and VD one per window, where the query has a verb."""
    if not TASKS[task].needs_verbs:
        return list(rows)
    return [row for row in split_windows(rows) if row.meta.get("verbs")]


def score_verbs(
    predictions: Sequence[Prediction], rows: Sequence[Row], pipeline: VerbPipeline, verb_match: VerbMatch = "all"
) -> None:
    """Set ``score`` of the answers to VC, AR and VD by their rewards (paper, eq. 5 to 7), 0 or 1."""
    verbs = {row.id: row.meta.get("verbs", []) for row in split_windows(rows)}
    mine = [p for p in predictions if p.task in INVERTED_TASKS]
    texts, tasks = [p.text for p in mine], [p.task for p in mine]
    asked = [verbs.get(p.id, []) for p in mine]
    scores = (
        vc_reward(texts, tasks, asked, verb_match=verb_match, pipeline=pipeline),
        ar_reward(texts, tasks, asked, pipeline=pipeline),
        vd_reward(texts, tasks, asked, verb_match=verb_match, pipeline=pipeline),
    )
    for prediction, of_tasks in zip(mine, zip(*scores, strict=True), strict=True):
        prediction.score = next(float(score) for score in of_tasks if score is not None)


def metrics_of(predictions: Sequence[Prediction], rows: Sequence[Row], strict: bool = False) -> dict[str, float]:
    """Metrics in percent of the predictions of any tasks on ``rows``, in any order.

    TVG gives R1@m, mIoU and n; VC, AR and VD give an accuracy under their upper-case name over the rows that have
    verbs; ``unparsable`` is the share of all answers that could not be read, ``missing_video`` the number of answers
    without a usable video. Every row counts, also one without a prediction.
    """
    answers = {(prediction.task, prediction.id): prediction for prediction in predictions}
    metrics: dict[str, float] = {}
    for name in (name for name in TASKS if any(prediction.task == name for prediction in predictions)):
        asked = [answers.get((name, row.id)) for row in rows_of_task(name, rows)]
        if not any(asked):
            continue
        if name == "tvg":
            metrics.update(grounding_metrics([answer.windows if answer else [] for answer in asked], rows, strict))
        else:
            metrics[name.upper()] = 100 * sum(answer.score for answer in asked if answer) / len(asked)
    statuses = [prediction.status for prediction in predictions]
    metrics["unparsable"] = 100 * statuses.count(UNPARSABLE) / max(1, len(statuses))
    metrics["missing_video"] = statuses.count(MISSING_VIDEO)
    return metrics


def counts_of(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """For each task that has predictions: how many rows it has and what became of them.

    ``missing``: no prediction; ``missing_video``; ``unparsable``: no span (TVG) or no text; ``swapped``: the first
    window ends before it starts; ``empty``: it has no length; ``outside``: it leaves the video by more than
    `TOLERANCE`. A status of another program is counted under its own name.
    """
    answers = {(prediction.task, prediction.id): prediction for prediction in predictions}
    counts: dict[str, dict[str, int]] = {}
    for task in dict.fromkeys(prediction.task for prediction in predictions):
        used = rows_of_task(task, rows)
        names = ("missing", MISSING_VIDEO, UNPARSABLE, "swapped", "empty", "outside")
        found = {"rows": len(used), OK: 0, **dict.fromkeys(names, 0)}
        for row in used:
            for state in _states(answers.get((task, row.id)), row):
                found[state] = found.get(state, 0) + 1
        counts[task] = found
    return counts


def _states(prediction: Prediction | None, row: Row) -> list[str]:
    """What there is to say of one row's prediction: one status, and what is odd about its first window."""
    if prediction is None:
        return ["missing"]
    if prediction.status != OK:
        return [prediction.status]
    if prediction.task != "tvg":
        return [OK if prediction.text.strip() else UNPARSABLE]
    if not prediction.windows:
        return [UNPARSABLE]
    start, end = prediction.windows[0]
    states = [OK]
    if end < start:
        states.append("swapped")
    if end == start:
        states.append("empty")
    if min(start, end) < -TOLERANCE or max(start, end) > row.duration + TOLERANCE:
        states.append("outside")
    return states


def per_window_metrics(
    predictions: Sequence[Prediction], rows: Sequence[Row], strict: bool = False
) -> dict[str, float]:
    """TVG metrics with one row per ground-truth window (paper, section 3.1), each answered by the row's prediction."""
    answers = {prediction.id: prediction for prediction in predictions if prediction.task == "tvg"}
    windows = [answers[row.id].windows if row.id in answers else [] for row in rows for _ in row.windows]
    return grounding_metrics(windows, split_windows(rows), strict)


def moments_of(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, Any]:
    """QVHighlights' metrics as moment_detr defines them (`invert_rl.evaluation.qvhighlights`)."""
    answers = {prediction.id: prediction for prediction in predictions if prediction.task == "tvg"}
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
