"""``invert-rl evaluate-mqa``: a model's answers to questions of build-mqa, and what they cost."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.llavaction.metrics import choice_metrics, top1_metrics
from invert_rl.llavaction.model_arguments import add_model_arguments
from invert_rl.llavaction.prompts import DIRECT
from invert_rl.llavaction.segments import ClassMap, parse_action, read_names
from invert_rl.llavaction.structured import structured_metrics, true_action
from invert_rl.llavaction.views import Sample
from invert_rl.video.ref import VideoRef

if TYPE_CHECKING:
    from invert_rl.llavaction.answer import QuestionAnswerer
    from invert_rl.llavaction.loaded import Loaded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl evaluate-mqa``."""
    parser.description = (
        "Accuracy on multiple-choice questions; on those of --mode structured top-1 accuracy of action, verb and noun."
    )
    add_model_arguments(parser)
    parser.add_argument("--batch-size", type=int, default=16, help="questions at a time (default: 16)")
    parser.add_argument("--max-new-tokens", type=int, default=32, help="of an answer (default: 32)")
    parser.add_argument(
        "--sap", action="store_true", help="ask again, naming the model's own predictions of the two clips before"
    )
    parser.add_argument(
        "--appending",
        type=int,
        metavar="N",
        help="also score every class as a continuation (multi-round appending) for the first N questions, and compare "
        "the cost",
    )
    parser.add_argument("--verb-classes", type=Path, help="id and key, for the texts of --appending")
    parser.add_argument("--noun-classes", type=Path, help="id and key, for the texts of --appending")
    parser.add_argument("--output", type=Path, metavar="A.jsonl", help="write the answers")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the result; 0 on success. Raises `DataError` for bad input."""
    from invert_rl.llavaction.answer import QuestionAnswerer, sequential_answers
    from invert_rl.llavaction.loaded import load
    from invert_rl.runs import write_records

    loaded = load(args)
    ask = QuestionAnswerer(loaded.model, loaded.encode, args.batch_size, args.max_new_tokens)
    started = time.perf_counter()
    answers = ask(loaded.rows)
    seconds = (time.perf_counter() - started) / len(loaded.rows)
    choices = {identity: answer.choice for identity, answer in answers.items()}
    result: dict[str, Any] = choice_metrics(choices, loaded.rows) | {"seconds_per_question": round(seconds, 4)}
    if all("first" in row.meta for row in loaded.rows):
        result["structured"] = structured_metrics(choices, loaded.rows)
    if args.sap:
        answers, again = sequential_answers(ask, loaded.rows, answers)
        sap = choice_metrics({identity: answer.choice for identity, answer in answers.items()}, loaded.rows)
        result["sap"] = sap | {"asked_again": again}
    if args.appending:
        result["appending"] = appending(args, loaded, ask)
    if args.output is not None:
        write_records(args.output, [answers[row.id].record() for row in loaded.rows])
    sys.stdout.write(json.dumps(result) + "\n" if args.json else _as_text(result))
    return 0


def appending(args: argparse.Namespace, loaded: Loaded, ask: QuestionAnswerer) -> dict[str, Any]:
    """Top-1 accuracy of multi-round appending on the first questions, and seconds of both ways, without decoding.

    ``cost_ratio`` is how many times as long appending takes as choosing among a question's options.
    """
    from invert_rl.llavaction.appending import AppendingScorer

    rows = loaded.rows[: args.appending]
    actions = [parse_action(key, "classes.json") for key in loaded.classes.actions]
    if not actions:
        raise DataError(
            f"--appending: {args.model} has no classes.json; a run of recipes/train_llavaction.py writes it"
        )
    scorer = AppendingScorer(loaded.model, loaded.encode, class_texts(args, loaded, rows))
    for row in rows:
        loaded.encode.store.clip(VideoRef(row.video, *row.window))
    started = time.perf_counter()
    ask(rows)
    asked = time.perf_counter() - started
    started = time.perf_counter()
    predicted = {}
    for row in rows:
        sample = Sample("direct", DIRECT, "", VideoRef(row.video, *row.window), has_class=False)
        predicted[row.id] = actions[int(scorer.losses(sample, row).argmin())]
    appended = time.perf_counter() - started
    metrics: dict[str, Any] = top1_metrics(predicted, {row.id: true_action(row) for row in rows})
    return metrics | {
        "classes": len(actions),
        "seconds_per_question": round(appended / len(rows), 4),
        "seconds_per_question_by_choice": round(asked / len(rows), 4),
        "cost_ratio": round(appended / asked, 1),
    }


def class_texts(args: argparse.Namespace, loaded: Loaded, rows: Sequence[Row]) -> list[str]:
    """One text per class: its official label, or else a text that the questions have for it.

    Raises `DataError` for a class that has neither.
    """
    actions = [parse_action(key, "classes.json") for key in loaded.classes.actions]
    if args.verb_classes and args.noun_classes:
        names = ClassMap([], read_names(args.verb_classes), read_names(args.noun_classes))
        return [names.label(action) for action in actions]
    seen: dict[str, str] = {}
    for row in loaded.rows:
        for key, text in zip(row.meta["option_classes"], row.meta["options"], strict=True):
            seen.setdefault(key, text)
    missing = [key for key in loaded.classes.actions if key not in seen]
    if missing:
        raise DataError(
            f"--appending: {len(missing)} classes, such as {missing[0]}, have no text in {args.data}; give "
            "--verb-classes and --noun-classes"
        )
    return [seen[key] for key in loaded.classes.actions]


def _as_text(result: dict[str, Any]) -> str:
    lines = [f"{result['MQA']:.1f} % of {result['n']:.0f} questions right, {result['unparsable']:.1f} % unparsable"]
    if "structured" in result:
        found = result["structured"]
        lines.append(
            f"top-1 action {found['action']:.1f} %, verb {found['verb']:.1f} %, noun {found['noun']:.1f} %; the "
            f"specialist alone {found['specialist']:.1f} %, at most {found['upper_bound']:.1f} %"
        )
    if "sap" in result:
        lines.append(f"sequential prediction {result['sap']['MQA']:.1f} %, {result['sap']['asked_again']} asked again")
    if "appending" in result:
        found = result["appending"]
        lines.append(
            f"appending {found['classes']} classes: action {found['action']:.1f} % of {found['n']:.0f}, "
            f"{found['cost_ratio']} times the cost of a choice"
        )
    return "\n".join(lines) + "\n"
