"""``invert-rl audit-rewards``: what each task's rewards pay without a look at the video, and for the right answer."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.rows import read_rows
from data_prep.verbs import annotate_missing
from invert_rl.audit_rewards import audit_task
from invert_rl.tasks import DEFAULT_TASKS, TASKS, load_preset
from invert_rl.tasks.options import (
    add_task_arguments,
    add_verb_arguments,
    complete_task_arguments,
    pipeline_for,
    verb_options,
)
from invert_rl.tasks.rewards import reward_weights
from rewards.verbs import verb_settings


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
