"""``invert-rl audit-mqa``: what multiple-choice questions give away to who never looks."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from invert_rl.llavaction.audit.asked import read_asked
from invert_rl.llavaction.audit.rules import MARGIN, audit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl audit-mqa``."""
    parser.description = (
        "Accuracy of rules that see no video: the option most like the others, the most frequent class, the longest "
        "text, a letter, what fits the actions around the clip, and a learned weighing of all. Any JSONL with options "
        "and answer will do; more rules apply where lines have option_classes, video and windows as build-mqa writes "
        "them."
    )
    parser.add_argument("questions", type=Path, metavar="QUESTIONS.jsonl", help="questions of build-mqa, or others")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Audit and print the result; 0 on success, also where there are leaks. Raises `DataError` for bad input."""
    questions, without = read_asked(args.questions)
    result = audit(questions)
    if without:
        result["without_true_option"] = without
    sys.stdout.write(json.dumps(result) + "\n" if args.json else as_text(result))
    return 0


def as_text(result: dict[str, Any]) -> str:
    """All attacks, the best first, and a warning that names those that are leaks."""
    width = max(len(name) for name in result["attacks"])
    attacks = sorted(result["attacks"].items(), key=lambda item: -item[1])
    lines = [
        f"{result['n']} questions without their videos; chance is {100 * result['chance']:.1f} %, give or take "
        f"{100 * result['standard_error']:.1f}"
    ]
    lines += [f"  {name:<{width}}  {100 * value:5.1f} %" for name, value in attacks]
    lines.append(warning(result) or f"no rule is more than {100 * MARGIN:.0f} points above chance")
    return "\n".join(lines) + "\n"


def warning(result: dict[str, Any]) -> str:
    """One line that names the leaks; empty if there are none."""
    if not result["leaks"]:
        return ""
    named = ", ".join(f"{name} {100 * result['attacks'][name]:.1f} %" for name in result["leaks"])
    return f"WARNING: the answer leaks without a look at the video: {named} (chance {100 * result['chance']:.1f} %)"
