"""``invert-rl audit-rewards``: what each task's rewards pay without a look at the video, and for the right answer."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

from data_prep.errors import DataError
from data_prep.rows import Row, read_rows
from data_prep.verbs import annotate_missing
from invert_rl.tasks import DEFAULT_TASKS, TASKS, load_preset
from invert_rl.tasks.base import FORM_REWARDS, Task, normalise_query
from invert_rl.tasks.options import (
    add_task_arguments,
    add_verb_arguments,
    complete_task_arguments,
    pipeline_for,
    verb_options,
)
from invert_rl.tasks.rewards import reward_weights, with_known
from rewards.blind import Answers, Ceiling, blind_spans, blind_words, in_company, reworded, write_span
from rewards.registry import Reward, get_reward
from rewards.verbs import verb_settings

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl audit-rewards``."""
    parser.description = (
        "For each task the mean reward, without that of the form, of the best answer that never looks at the video, "
        "of the annotated answer, and of the same in other words. No model and no video is read."
    )
    parser.add_argument("rows", type=Path, metavar="ROWS.jsonl", help="rows as convert writes them")
    parser.add_argument(
        "--tasks", nargs="+", choices=tuple(TASKS), default=list(DEFAULT_TASKS), help="default: tvg vc ar vd"
    )
    add_task_arguments(parser, windows="split")
    parser.add_argument("--rewards", nargs="+", metavar="R", help="as in training: tvg=format:1,iou:1 …")
    add_verb_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Audit and print; 0 on success. Raises `DataError` or `RewardError` for bad input."""
    complete_task_arguments(args, windows="split")
    preset = load_preset(args.prompt, args.tasks, args.windows)
    tasks = {name: preset.tasks[name] for name in args.tasks}
    weights = reward_weights(args.rewards, tasks)
    rows = read_rows(args.rows)
    pipeline = pipeline_for(args.tasks, args.verb_pipeline)
    if pipeline is not None:
        rows = annotate_missing(rows, pipeline)
    options = verb_options(pipeline, args.verb_match, "binary", args.verb_guard, args.ignore_verbs)
    report: dict[str, Any] = {
        "n": len(rows),
        "tasks": {name: audit_task(task, rows, weights[name], options) for name, task in tasks.items()},
        "prompt": preset.identity(),
        "windows": args.windows,
        "rewards": weights,
        "verbs": {
            "pipeline": f"{pipeline.name} {pipeline.version}" if pipeline else None,
            "verb_match": args.verb_match,
            **verb_settings(args.verb_guard, args.ignore_verbs),
        },
    }
    sys.stdout.write((json.dumps(report, ensure_ascii=False) if args.json else _table(report)) + "\n")
    return 0


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
    table = [task.columns(row) for row in used]
    columns = {name: [values[name] for values in table] for name in table[0]}
    content = {name: weight for name, weight in weights.items() if name not in FORM_REWARDS and weight > 0}
    found = _audit(
        task, used, Answers(_weighted(content, options), columns, lambda answer: task.completion(answer, "x"))
    )
    report = {"n": len(used), **found}
    if len(content) > 1:
        report["by_reward"] = {}
        for name in content:
            answers = Answers(_weighted({name: 1.0}, options), columns, lambda answer: task.completion(answer, "x"))
            alone = _audit(task, used, answers)
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


def blind_ceiling(task: Task, rows: Sequence[Row], answers: Answers) -> Ceiling:
    """The best that can be answered to ``rows`` from the text alone (`rewards.blind`)."""
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


def _table(report: Mapping[str, Any]) -> str:
    lines = [
        f"{report['n']} rows; mean reward without that of the form",
        f"{'task':<10}{'blind':>8}{'perfect':>9}  answer",
    ]
    for name, task in report["tasks"].items():
        perfect = "-" if task["perfect"] is None else f"{task['perfect']:.3f}"
        lines.append(f"{name:<10}{task['blind']:8.3f}{perfect:>9}  {task['answer']}")
        lines += [f"  {value:8.3f}  blind: {attack}" for attack, value in task["attacks"].items()]
        lines += [f"  {value:8.3f}  annotated, {how}" for how, value in task["paraphrases"].items()]
        for reward, alone in task.get("by_reward", {}).items():
            lines.append(f"  {alone['blind']:8.3f}  {reward} alone: {alone['answer']}")
    return "\n".join(lines)
