"""What rewards pay without a look at the video, and for the right answer: the audit of a task's rewards on rows."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.tasks.base import FORM_REWARDS, Task, normalise_query
from invert_rl.tasks.rewards import RewardWeights, with_known
from rewards.blind import Answers, Ceiling, blind_spans, blind_words, in_company, reworded, write_span
from rewards.registry import Reward, get_reward

RUN_ROWS = 300
"""Rows on which a training run looks for its ceilings; some seconds of processor time for all tasks."""


def audit_task(
    task: Task, rows: Sequence[Row], weights: Mapping[str, float], options: Mapping[str, Any]
) -> dict[str, Any]:
    """What the content rewards of a task pay on the rows that it is asked of, as mean of the rewards by weight.

    ``blind`` is the best of ``attacks``, with its ``answer``; ``perfect`` is what the annotated answer earns (None for
    a task without one) and ``paraphrases`` what it earns in other words. ``by_reward`` has ``blind`` and ``perfect``
    of each reward alone, where there are several. Raises `DataError` where no row can be asked.
    """
    used = task.rows(rows)
    if not used:
        raise DataError(f"task {task.name!r} can use none of the rows")
    content = {name: weight for name, weight in weights.items() if name not in FORM_REWARDS and weight > 0}
    found = _audit(task, used, _answers(task, used, content, options))
    report = {"n": len(used), **found}
    if len(content) > 1:
        report["by_reward"] = {}
        for name in content:
            alone = _audit(task, used, _answers(task, used, {name: 1.0}, options))
            report["by_reward"][name] = {key: alone[key] for key in ("blind", "answer", "perfect")}
    return report


def _audit(task: Task, rows: Sequence[Row], answers: Answers) -> dict[str, Any]:
    ceiling = blind_ceiling(task, rows, answers)
    annotated = [task.answer(row) for row in rows]
    paraphrases: dict[str, float] = {}
    perfect = None
    if all(answer is not None for answer in annotated):
        right = [answer for answer in annotated if answer is not None]
        perfect = answers.mean(right)
        # A statement that nothing matches has one wording, which the preset gives.
        paraphrases = {
            how: answers.mean(
                text if row.windows else answer for text, answer, row in zip(texts, right, rows, strict=True)
            )
            for how, texts in reworded(right, task.kind).items()
        }
        if not _shown(task) and right == [normalise_query(row.query) for row in rows]:
            texts = in_company([row.query for row in rows], [row.video for row in rows])
            paraphrases["among the sentences on its video"] = answers.mean(texts)
    return {
        "blind": ceiling.blind,
        "answer": ceiling.answer,
        "perfect": perfect,
        "attacks": ceiling.attacks,
        "paraphrases": paraphrases,
    }


def blind_ceiling(task: Task, rows: Sequence[Row], answers: Answers, most: int | None = None) -> Ceiling:
    """The best that can be answered to ``rows`` from the text alone (`rewards.blind`).

    ``most``: words are scored on at most so many rows.
    """
    shown = _shown(task)
    if task.names_spans:
        return blind_spans(
            answers,
            [row.clip_windows for row in rows],
            [row.shown_seconds for row in rows],
            lambda start, end: write_span(start, end, task.kind),
            next((task.answer(row) for row in rows if not row.windows), None),
            {"part by verbs": [" ".join(row.meta.get("verbs", ())) for row in rows]} if "query" in shown else {},
        )
    ceiling = blind_words(
        answers,
        [row.meta.get("verbs", ()) for row in rows],
        [row.query for row in rows],
        [row.meta.get("masked_query", "") for row in rows] if "masked_query" in shown else (),
        most,
    )
    if "query" in shown:
        ceiling.add("the query", answers.mean(row.query for row in rows), "the query itself, which the prompt shows")
    return ceiling


def _shown(task: Task) -> set[str]:
    """The names of what the prompt shows of a row."""
    return {name for _, name, _, _ in Formatter().parse(task.prompt) if name}


def _weighted(weights: Mapping[str, float], options: Mapping[str, Any]) -> Reward:
    """The mean of these rewards by weight; None for a completion that none of them scores."""
    rewards = {name: with_known(get_reward(name), options) for name in weights}
    total = sum(weights.values())

    def mean(completions: Sequence[str], **columns: Any) -> list[float | None]:
        scores = {name: reward(completions=completions, **columns) for name, reward in rewards.items()}
        return [
            None
            if all(score is None for score in of_row)
            else sum(weight * (score or 0.0) for weight, score in zip(weights.values(), of_row, strict=True)) / total
            for of_row in zip(*scores.values(), strict=True)
        ]

    return mean


def run_ceilings(
    tasks: Mapping[str, Task], rows: Sequence[Row], weights: RewardWeights, options: Mapping[str, Any]
) -> dict[str, float]:
    """The blind ceiling of each task's content rewards, for the log of a run: ``blind/<task>/<reward>``.

    On at most `RUN_ROWS` rows of each task, drawn by seed 0; guesses from masked queries know all rows. Rewards of
    plugins are left out, as the search calls a reward on some ten thousand answers; ``invert-rl audit-rewards`` takes
    them.
    """
    ceilings = {}
    for name, task in tasks.items():
        used = task.rows(rows)
        if task.names_spans:
            used = random.Random(0).sample(used, min(RUN_ROWS, len(used)))
        for reward in weights[name]:
            if reward in FORM_REWARDS or not used or not get_reward(reward).__module__.startswith("rewards."):
                continue
            found = blind_ceiling(task, used, _answers(task, used, {reward: 1.0}, options), RUN_ROWS)
            ceilings[f"blind/{name}/{reward.rpartition(':')[2]}"] = found.blind
    return ceilings


def _answers(task: Task, rows: Sequence[Row], weights: Mapping[str, float], options: Mapping[str, Any]) -> Answers:
    table = [task.columns(row) for row in rows]
    columns = {name: [values[name] for values in table] for name in table[0]}
    return Answers(_weighted(weights, options), columns, lambda answer: task.completion(answer, "x"))
