"""``invert-rl evaluate-mqa``: a model's answers to questions of build-mqa, and what they cost."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.evaluation.data import file_sha256
from invert_rl.llavaction.answers.ek100 import read_splits, submission, write_submission
from invert_rl.llavaction.answers.metrics import top1_metrics
from invert_rl.llavaction.answers.model_arguments import add_model_arguments, model_identity
from invert_rl.llavaction.answers.structured import structured_metrics, true_action
from invert_rl.llavaction.answers.tables import add_arguments as add_table_arguments
from invert_rl.llavaction.answers.tables import tables
from invert_rl.llavaction.prompts import direct_prompt
from invert_rl.llavaction.segments import ClassMap, parse_action, read_names
from invert_rl.llavaction.views import Sample
from invert_rl.video.ref import VideoRef

if TYPE_CHECKING:
    from accelerate import PartialState

    from invert_rl.llavaction.answers.answer import Answer, QuestionAnswerer
    from invert_rl.llavaction.data import SampleEncoder


TOP1 = ("action", "verb", "noun")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl evaluate-mqa``."""
    parser.description = (
        "Accuracy on multiple-choice questions; on those of --mode structured top-1 accuracy of action, verb and noun."
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--backend",
        choices=("auto", "transformers", "vllm"),
        default="auto",
        help="what generates the answers; auto: vLLM where it is installed and has a GPU, in one process",
    )
    parser.add_argument("--batch-size", type=int, help="questions at a time (default: 16, with vLLM 256)")
    parser.add_argument("--max-new-tokens", type=int, default=32, help="of an answer (default: 32)")
    parser.add_argument(
        "--likeliest",
        action="store_true",
        help="take the option that the model finds likeliest instead of generating an answer: all can be read",
    )
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
    parser.add_argument(
        "--output",
        type=Path,
        metavar="A.jsonl",
        help="write the answers; started again after a kill it goes on, and several ranks (accelerate launch -m "
        "invert_rl.cli evaluate-mqa …) share the questions",
    )
    splits = parser.add_argument_group("EPIC-KITCHENS-100's splits and challenge")
    splits.add_argument("--tail-verbs", type=Path, metavar="CSV", help="EPIC_100_tail_verbs.csv")
    splits.add_argument("--tail-nouns", type=Path, metavar="CSV", help="EPIC_100_tail_nouns.csv")
    splits.add_argument(
        "--unseen-participants", type=Path, metavar="CSV", help="EPIC_100_unseen_participant_ids_validation.csv"
    )
    splits.add_argument(
        "--submission",
        type=Path,
        metavar="S.zip",
        help="write structured answers in the challenge's format, as it is uploaded; or plain JSON for another ending",
    )
    splits.add_argument(
        "--supervision",
        type=int,
        nargs=3,
        default=(0, 0, 0),
        metavar="N",
        help="the challenge's levels sls_pt, sls_tl and sls_td, for --submission",
    )
    add_table_arguments(parser.add_argument_group("figures of the paper's Tables 5 and 8"))
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the result; 0 on success. Raises `DataError` for bad input."""
    from accelerate import PartialState

    from invert_rl.evaluation.model import PATIENCE
    from invert_rl.llavaction.answers.loaded import load_encoder, load_rows
    from invert_rl.llavaction.report import answer_metrics

    splits = read_splits(args.tail_verbs, args.tail_nouns, args.unseen_participants)
    rows, encode = load_rows(args), load_encoder(args)
    structured = all("first" in row.meta for row in rows)
    several = [row for row in rows if "answers" in row.meta]
    alone = (args.likeliest, args.sap, args.appending, args.difficulty, args.filtered)
    if several and (len(several) < len(rows) or any(alone)):
        raise DataError(
            f"{args.data}: questions with several true options take none of --likeliest, --sap, --appending, "
            "--difficulty and --filtered, and no other questions beside them"
        )
    if args.submission is not None and not structured:
        raise DataError(f"--submission: {args.data} has other questions than those of build-mqa --mode structured")
    state = PartialState(cpu=args.cpu, timeout=PATIENCE)
    ask, made_by = answerer(args, encode, state)
    started = time.perf_counter()
    answers, sap, again = all_answers(args, rows, ask, made_by)
    seconds = (time.perf_counter() - started) / len(rows)
    if not state.is_main_process:
        return 0
    choices = {identity: answer.choice for identity, answer in answers.items()}
    result: dict[str, Any] = answer_metrics(answers, rows) | {"seconds_per_question": round(seconds, 4)}
    score = next(iter(result))  # MQA, or jaccard
    for name, part in splits.rows(rows).items() if score == "MQA" else ():
        result[f"{name}/MQA"] = answer_metrics(answers, part)["MQA"]
    if structured:
        result["structured"] = structured_metrics(choices, rows)
        for task in TOP1:
            for name, part in splits.rows(rows, task).items():
                result["structured"][f"{name}/{task}"] = structured_metrics(choices, part)[task]
    result |= tables(args, choices, rows)
    if sap is not None:
        result["sap"] = answer_metrics(sap, rows) | {"asked_again": again}
    if args.appending:
        result["appending"] = appending(args, rows, ask)
    if args.submission is not None:
        write_submission(args.submission, submission(choices, rows, args.supervision))
    sys.stdout.write(json.dumps(result) + "\n" if args.json else _as_text(result))
    return 0


def answerer(args: argparse.Namespace, encode: SampleEncoder, state: PartialState) -> tuple[QuestionAnswerer, str]:
    """What answers the questions, and by what and in which precision; raises `DataError` for what cannot be."""
    from invert_rl.llavaction.answers.answer import QuestionAnswerer
    from invert_rl.llavaction.answers.engine import BATCH, backend_of, engine_answerer
    from invert_rl.llavaction.answers.loaded import load_weights

    backend = backend_of(args, encode, state)
    batch = args.batch_size or BATCH[backend]
    if backend == "vllm":
        engine, dtype = engine_answerer(args, encode, batch)
        return engine, f"vllm {dtype}"
    model = load_weights(args, encode)
    ranks = state.process_index, state.num_processes
    ask = QuestionAnswerer(model, encode, batch, args.max_new_tokens, *ranks, args.likeliest)
    return ask, f"transformers {str(model.dtype).removeprefix('torch.')}"


def all_answers(
    args: argparse.Namespace, rows: Sequence[Row], ask: QuestionAnswerer, made_by: str
) -> tuple[dict[str, Answer], dict[str, Answer] | None, int]:
    """Answers to all questions, and with ``--sap`` those of the second pass and how many were asked again."""
    from invert_rl.llavaction.answers.answer import sequential_answers
    from invert_rl.llavaction.answers.answer_log import PLAIN, SAP, AnswerLog

    if args.output is None:
        answers = ask(rows)
        return (answers, *sequential_answers(ask, rows, answers)) if args.sap else (answers, None, 0)
    log = AnswerLog(args.output, log_settings(args, rows, ask.encode, made_by))
    answers = log.ask(PLAIN, ask, rows)
    if not args.sap:
        log.finish({PLAIN: answers})
        return answers, None, 0
    sap, again = sequential_answers(lambda rows, texts: log.ask(SAP, ask, rows, texts), rows, answers)
    log.finish({PLAIN: answers, SAP: sap})
    return answers, sap, again


def log_settings(args: argparse.Namespace, rows: Sequence[Row], encode: SampleEncoder, made_by: str) -> dict[str, Any]:
    """What an output belongs to: the model, the questions, and how they are asked."""
    return {
        **model_identity(args.model),
        "questions": file_sha256(args.data),
        "n": len(rows),
        "frames": asdict(encode.store.settings),
        "views": asdict(encode.settings),
        "action_token": bool(encode.encoder.token_ids),
        "max_new_tokens": args.max_new_tokens,
        "made_by": made_by,
        "likeliest": args.likeliest,
        "sap": args.sap,
    }


def appending(args: argparse.Namespace, questions: Sequence[Row], ask: QuestionAnswerer) -> dict[str, Any]:
    """Top-1 accuracy of multi-round appending on the first questions, and seconds of both ways, without decoding.

    ``cost_ratio`` is how many times as long appending takes as choosing among a question's options.
    """
    from invert_rl.llavaction.answers.answer import QuestionAnswerer
    from invert_rl.llavaction.answers.appending import AppendingScorer

    rows, encode = questions[: args.appending], ask.encode
    actions = [parse_action(key, "classes.json") for key in encode.classes.actions]
    if not actions:
        raise DataError(
            f"--appending: {args.model} has no classes.json; a run of recipes/train_llavaction.py writes it"
        )
    scorer = AppendingScorer(ask.model, encode, class_texts(args, encode.classes.actions, questions))
    for row in rows:
        encode.store.clip(VideoRef(row.video, *row.window))
    started = time.perf_counter()
    QuestionAnswerer(ask.model, encode, ask.batch_size, ask.max_new_tokens)(rows)
    asked = time.perf_counter() - started
    started = time.perf_counter()
    predicted = {}
    for row in rows:
        prompt = direct_prompt(encode.settings.perspective, encode.settings.prompt_style)
        sample = Sample("direct", prompt, "", VideoRef(row.video, *row.window), has_class=False)
        predicted[row.id] = actions[int(scorer.losses(sample, row).argmin())]
    appended = time.perf_counter() - started
    metrics: dict[str, Any] = top1_metrics(predicted, {row.id: true_action(row) for row in rows})
    return metrics | {
        "classes": len(actions),
        "seconds_per_question": round(appended / len(rows), 4),
        "seconds_per_question_by_choice": round(asked / len(rows), 4),
        "cost_ratio": round(appended / asked, 1),
    }


def class_texts(args: argparse.Namespace, keys: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """One text per class: its official label, or else a text that the questions have for it.

    Raises `DataError` for a class that has neither.
    """
    actions = [parse_action(key, "classes.json") for key in keys]
    if args.verb_classes and args.noun_classes:
        names = ClassMap([], read_names(args.verb_classes), read_names(args.noun_classes))
        return [names.label(action) for action in actions]
    seen: dict[str, str] = {}
    for row in rows:
        for key, text in zip(row.meta["option_classes"], row.meta["options"], strict=True):
            seen.setdefault(key, text)
    missing = [key for key in keys if key not in seen]
    if missing:
        raise DataError(
            f"--appending: {len(missing)} classes, such as {missing[0]}, have no text in {args.data}; give "
            "--verb-classes and --noun-classes"
        )
    return [seen[key] for key in keys]


def _as_text(result: dict[str, Any]) -> str:
    if "jaccard" in result:
        return (
            f"Jaccard {result['jaccard']:.1f} % over {result['n']:.0f} questions with several true options (naming "
            f"all without a look: {result['jaccard/all']:.1f} %), {result['exact']:.1f} % exactly right, "
            f"{result['unparsable']:.1f} % unparsable, {result['missing']:.1f} % without their clip\n"
        )
    lines = [
        f"{result['MQA']:.1f} % of {result['n']:.0f} questions right ({result['MQA/answered']:.1f} % of those with a "
        f"readable answer), {result['unparsable']:.1f} % unparsable, {result['missing']:.1f} % without their clip"
    ]
    lines += [f"  {name} {result[name]:.1f} %" for name in result if name.endswith("/MQA")]
    if "structured" in result:
        found = result["structured"]
        lines.append(
            f"top-1 action {found['action']:.1f} %, verb {found['verb']:.1f} %, noun {found['noun']:.1f} %; the "
            f"specialist alone {found['specialist']:.1f} %, at most {found['upper_bound']:.1f} %"
        )
    for level, found in result.get("by_difficulty", {}).items():
        lines.append(f"  difficulty {level}: {found['MQA']:.1f} % of {found['n']:.0f}")
    if "filtered" in result:
        lines.append(f"the specialist among the same options {result['filtered']['MQA']:.1f} %")
    if "sap" in result:
        lines.append(f"sequential prediction {result['sap']['MQA']:.1f} %, {result['sap']['asked_again']} asked again")
    if "appending" in result:
        found = result["appending"]
        lines.append(
            f"appending {found['classes']} classes: action {found['action']:.1f} % of {found['n']:.0f}, "
            f"{found['cost_ratio']} times the cost of a choice"
        )
    return "\n".join(lines) + "\n"
