"""Figures beside a model's accuracy: by rated difficulty (Table 8), a specialist's among the same options (Table 5)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import read_jsonl
from data_prep.rows import Row
from invert_rl.llavaction.answers.choices import Choice
from invert_rl.llavaction.answers.metrics import choice_metrics
from invert_rl.llavaction.questions.specialist import NoPrediction, read_specialist
from invert_rl.llavaction.segments import Action, ClassMap, Segment, parse_action

LEVELS = (1, 2, 3, 4)
"""Of difficulty, from very easy to hard (appendix C.6)."""


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """Arguments that name the files."""
    parser.add_argument(
        "--difficulty",
        type=Path,
        metavar="R.jsonl",
        help="also accuracy by rated difficulty: lines of id and difficulty, 1 to 4, as another model answers the "
        "prompt of invert_rl.llavaction.prompts.difficulty_request",
    )
    parser.add_argument(
        "--filtered",
        type=Path,
        metavar="FILE",
        help="also the accuracy of a specialist's predictions (as for build-mqa, by narration id) among each "
        "question's options",
    )


def tables(args: argparse.Namespace, choices: Mapping[str, Choice], rows: Sequence[Row]) -> dict[str, Any]:
    """``by_difficulty`` and ``filtered`` where the arguments name their files; raises `DataError` for bad ones."""
    found: dict[str, Any] = {}
    if args.difficulty is not None:
        found["by_difficulty"] = by_difficulty(choices, rows, read_difficulty(args.difficulty, rows))
    if args.filtered is not None:
        chosen = filtered_choices(args.filtered, rows)
        found["filtered"] = {name: choice_metrics(chosen, rows)[name] for name in ("MQA", "n")}
    return found


def read_difficulty(path: Path, rows: Sequence[Row]) -> dict[str, int]:
    """Levels by row id; raises `DataError` for a rating that is none, and for a row without one."""
    levels: dict[str, int] = {}
    for line, record in read_jsonl(path):
        text = str(record.get("difficulty", "")).strip(" .")
        if text not in map(str, LEVELS):
            raise DataError(f"{path}:{line}: difficulty {record.get('difficulty')!r} is not one of 1 to {LEVELS[-1]}")
        levels[str(record.get("id"))] = int(text)
    missing = [row.id for row in rows if row.id not in levels]
    if missing:
        raise DataError(f"{path}: rates {len(rows) - len(missing)} of {len(rows)} questions; {missing[0]!r} is missing")
    return levels


def by_difficulty(
    choices: Mapping[str, Choice], rows: Sequence[Row], levels: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """Accuracy (percent) and number of questions of each level that occurs."""
    parts = {level: [row for row in rows if levels[row.id] == level] for level in LEVELS}
    return {
        str(level): {name: choice_metrics(choices, part)[name] for name in ("MQA", "n")}
        for level, part in parts.items()
        if part
    }


def filtered_choices(path: Path, rows: Sequence[Row]) -> dict[str, Choice]:
    """For each row the option that a specialist ranks highest; none where it has no prediction or ranks no option."""
    options = [[parse_action(key, f"row {row.id!r}") for key in row.meta["option_classes"]] for row in rows]
    segments = [
        Segment(row.id, row.video, *row.window, row.query, row.meta["verb_class"], row.meta["noun_class"])
        for row in rows
    ]
    others = [Segment("", "", 0.0, 1.0, "", *action) for actions in options for action in actions]
    specialist = read_specialist(str(path), segments, ClassMap([*segments, *others]), 0)
    chosen: dict[str, Choice] = {}
    for place, (segment, actions) in enumerate(zip(segments, options, strict=True)):
        try:
            ranks: dict[Action, int] = {action: rank for rank, action in enumerate(specialist.ranked(place, segment))}
        except NoPrediction:
            continue
        best = min(range(len(actions)), key=lambda at: ranks.get(actions[at], len(ranks)))
        if actions[best] in ranks:
            chosen[segment.id] = Choice(best, "letter")
    return chosen
