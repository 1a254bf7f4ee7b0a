"""``invert-rl evaluate``: score a model, or predictions that are there already, on a file of rows."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.rows import Row, is_irrelevant, split_windows
from data_prep.verbs import annotate_verbs
from invert_rl.evaluation.asked import asked_preset, ruled
from invert_rl.evaluation.data import file_sha256, read_evaluation_rows
from invert_rl.evaluation.decoding_options import add_decoding_arguments
from invert_rl.evaluation.predictions import (
    Prediction,
    check_predictions,
    in_seconds,
    predictions_sidecar,
    read_predictions,
)
from invert_rl.evaluation.protocols.conventions import conventions_of, leaked_rows
from invert_rl.evaluation.protocols.fields import Protocol, compare_results, protocol_id, protocol_line
from invert_rl.evaluation.protocols.named import PROTOCOLS, NamedProtocol, named_protocol
from invert_rl.evaluation.protocols.stated import scoring_protocol
from invert_rl.evaluation.ray_options import add_ray_arguments
from invert_rl.evaluation.scoring import (
    counts_of,
    highlights_of,
    metrics_of,
    moments_of,
    per_window_metrics,
    score_answers,
)
from invert_rl.tasks import DEFAULT_TASK, TASKS, Task
from invert_rl.tasks.options import (
    add_task_arguments,
    add_verb_arguments,
    complete_task_arguments,
    pipeline_for,
    verb_options,
)
from invert_rl.tasks.refuse import REFUSE
from invert_rl.video.options import add_frame_arguments

MAX_NEW_TOKENS = 1024
"""Length of an answer unless ``--max-new-tokens`` or a named protocol says."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl evaluate``."""
    parser.description = (
        "R1@0.3, R1@0.5, R1@0.7 and mIoU of temporal grounding and the accuracies of VC, AR and VD. Every row counts: "
        "one without an answer counts as wrong and is reported. On several GPUs: accelerate launch -m invert_rl.cli "
        "evaluate …; a command that was killed goes on where it was."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="M", help="checkpoint folder or hub id that answers")
    source.add_argument("--predictions", type=Path, metavar="P.jsonl", help="answers that are there already")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DATA.jsonl", help="rows, or QVHighlights' own annotation file"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--limit", type=_positive_int, metavar="N", help="only the first N rows of DATA")
    parser.add_argument("--against", type=Path, metavar="R.json", help="an earlier --json result to compare with")
    parser.add_argument(
        "--protocol",
        choices=tuple(PROTOCOLS),
        metavar="NAME",
        help="as a benchmark's publisher counts, such as charades-sta/published; with --model also its prompt, frames "
        "and length of answers unless said otherwise (docs/evaluation.md has them all)",
    )
    parser.add_argument("--strict", action="store_true", help="R1 counts IoU > m, as 2D-TAN; default: IoU >= m")
    parser.add_argument(
        "--units", choices=("seconds", "milliseconds", "fractions"), help="what the windows of P are in"
    )
    add_task_arguments(parser)
    add_verb_arguments(parser)
    model = parser.add_argument_group("with --model")
    model.add_argument("--videos", type=Path, metavar="DIR", help="folder that the rows' video names are relative to")
    model.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=[DEFAULT_TASK], help="default: tvg")
    model.add_argument(
        "--output", type=Path, metavar="P.jsonl", help="where the answers go; default: runs/evaluate/MODEL-DATA.jsonl"
    )
    model.add_argument("--manifest", type=Path, help="of check-videos: videos that are not ok are not tried")
    add_decoding_arguments(model)
    add_ray_arguments(model)
    model.add_argument("--batch-size", type=_positive_int, help="prompts at a time; default: 16, with vLLM 128")
    model.add_argument("--max-new-tokens", type=_positive_int, help=f"default: that of --protocol, or {MAX_NEW_TOKENS}")
    model.add_argument(
        "--backend", choices=("auto", "transformers", "vllm"), default="auto", help="default: vLLM if it is there"
    )
    model.add_argument("--revision", help="of a hub checkpoint")
    model.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32"))
    model.add_argument("--cpu", action="store_true", help="do not use a GPU")
    model.add_argument(
        "--transformers-positions",
        action=argparse.BooleanOptionalAction,
        help="Qwen2.5-VL positions as transformers counts them; default: as the model was trained",
    )
    add_frame_arguments(model)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the result; 0 on success. Raises `DataError` or `RewardError` for bad input."""
    published = _complete_by_protocol(args)
    complete_task_arguments(args)
    rows = read_evaluation_rows(args.data)
    sha256 = file_sha256(args.data)
    names = set(args.tasks)
    preset = asked_preset(args)
    tasks: Mapping[str, Task] = preset.tasks
    if args.predictions is not None:
        all_tasks = {name: replace(task, windows=args.windows) for name, task in TASKS.items()}
        tasks = {**(all_tasks if published is None else ruled(all_tasks, published.rules)), **preset.tasks}
        predictions = read_predictions(args.predictions, rows, tasks=tasks)
        names = {prediction.task for prediction in predictions}
        rows = _rows_meant(rows, predictions)
        check_predictions(predictions, rows, str(args.predictions), tasks)
        predictions = in_seconds(predictions, rows, args.units, str(args.predictions))
        if args.limit is not None:
            kept = {row.id for row in rows[: args.limit]} | {row.id for row in split_windows(rows[: args.limit])}
            predictions = [prediction for prediction in predictions if prediction.id in kept]
    rows = rows[: args.limit]
    pipeline = pipeline_for(names, args.verb_pipeline)
    if pipeline is not None:
        rows = annotate_verbs(rows, pipeline)
    options = verb_options(pipeline, args.verb_match, "binary", args.verb_guard, args.ignore_verbs)
    protocol = scoring_protocol(
        {"name": args.data.name, "rows": len(rows), "sha256": sha256},
        args.windows,
        pipeline,
        args.verb_match,
        args.verb_guard,
        args.ignore_verbs,
        args.strict,
        (args.protocol, published.rules) if published else None,
    )
    if args.predictions is not None:
        protocol = _protocol_of_file(args.predictions, protocol)
    else:
        from invert_rl.evaluation.model import predict_with_model

        if args.videos is None:
            raise DataError("--model needs --videos, the folder that holds the videos of the data")
        leaked = leaked_rows([preset.tasks[name] for name in args.tasks], rows)
        if leaked:
            sys.stderr.write(
                f"warning: the prompt holds the query of {len(leaked)} rows with its answer, such as {leaked[0]}; "
                "choose another prompt\n"
            )
        answers = predict_with_model(args, rows, protocol, preset, options)
        if answers is None:
            return 0  # another rank prints
        predictions, protocol = answers
    if not any(row.windows or is_irrelevant(row) for row in rows):
        return _answered_only(args, predictions, len(rows))
    unlabelled = {row.id for row in rows if not row.windows and not is_irrelevant(row)}
    rows = [row for row in rows if row.id not in unlabelled]
    predictions = [prediction for prediction in predictions if prediction.id not in unlabelled]
    score_answers(predictions, rows, tasks, options)
    result = evaluation_result(predictions, rows, protocol, args.strict, tasks)
    if unlabelled:
        result["n_unlabelled"] = len(unlabelled)
    change = compare_results(result, args.against) if args.against is not None else None
    if change is not None:
        result["change"] = change
    sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n" if args.json else _as_text(result))
    return 0


def evaluation_result(
    predictions: Sequence[Prediction],
    rows: Sequence[Row],
    protocol: Protocol,
    strict: bool = False,
    tasks: Mapping[str, Task] = TASKS,
) -> dict[str, Any]:
    """Everything that ``--json`` prints: metrics in percent, counts, both QVHighlights conventions, the protocol."""
    result: dict[str, Any] = metrics_of(predictions, rows, strict, tasks)
    result.setdefault("n", len(rows))
    del result["unparsable"], result["missing_video"]  # here as counts
    counts = counts_of(predictions, rows, tasks)
    for name in ("unparsable", "missing", "missing_video", "too_long", "swapped", "outside"):
        result[f"n_{name}"] = sum(of_task[name] for of_task in counts.values())
    result["counts"] = counts
    grounded = any(tasks[name].forward for name in counts)
    windows = {tasks[name].windows for name in counts}
    shown = [row for row in rows if row.windows]  # of queries to be refused there is nothing to find
    several = any(len(row.windows) > 1 for row in shown)
    if grounded and windows == {"any"} and several:
        result["per_window"] = per_window_metrics(predictions, shown, strict)
    if grounded and "split" not in windows and (several or any(row.dataset == "qvhighlights" for row in shown)):
        result["moment_detr"] = moments_of(predictions, shown)
        if all("saliency_scores" in row.meta for row in shown) and any(p.saliency for p in predictions):
            highlights = highlights_of(predictions, shown)
            brief = {**result["moment_detr"]["brief"], **highlights["brief"]}
            result["moment_detr"] = {**result["moment_detr"], **highlights, "brief": brief}
    others = conventions_of(predictions, rows, strict, tasks)
    if others:
        result["conventions"] = others
    result["protocol"] = protocol
    result["protocol_line"] = protocol_line(protocol)
    return result


def _complete_by_protocol(args: argparse.Namespace) -> NamedProtocol | None:
    """The named protocol, if any; sets what it fixes where the command line does not say.

    Raises `DataError` for options that it leaves no room for.
    """
    if args.protocol is None:
        args.max_new_tokens = args.max_new_tokens or MAX_NEW_TOKENS
        return None
    published = named_protocol(args.protocol)
    if args.strict:
        raise DataError(f"--strict: {args.protocol} counts IoU {published.rules.comparison} m; leave one of them out")
    if args.windows not in (None, published.windows):
        raise DataError(
            f"--windows {args.windows}: {args.protocol} asks for {published.windows}; leave one of them out"
        )
    if published.rules.measure == "refusal" and args.predictions is None and args.tasks != [REFUSE.name]:
        raise DataError(f"--protocol {args.protocol} is about the task {REFUSE.name}: add --tasks {REFUSE.name}")
    args.windows = published.windows
    args.prompt = args.prompt or published.prompt
    if args.windows == "all" and args.prompt is None and args.predictions is not None:
        args.prompt = "spans_json"
    args.max_new_tokens = args.max_new_tokens or published.max_new_tokens or MAX_NEW_TOKENS
    return published


def _answered_only(args: argparse.Namespace, predictions: Sequence[Prediction], rows: int) -> int:
    """Say what was answered where no row has windows; raises `DataError` where nothing was to be answered."""
    if args.predictions is not None:
        raise DataError(f"{args.data}: none of the {rows} rows has windows, so there is nothing to score")
    told: dict[str, Any] = {"n_unlabelled": rows}
    for prediction in predictions:
        told[f"n_{prediction.status}"] = told.get(f"n_{prediction.status}", 0) + 1
    text = ", ".join(f"{count} {name.removeprefix('n_')}" for name, count in told.items())
    sys.stdout.write(json.dumps(told) + "\n" if args.json else f"answered, nothing to score: {text}\n")
    return 0


def _rows_meant(rows: list[Row], predictions: Sequence[Prediction]) -> list[Row]:
    """The rows, or one per window where the TVG predictions were made for those (ids ``…#0``, ``…#1``)."""
    asked = {prediction.id for prediction in predictions if not TASKS[prediction.task].segment}
    split = split_windows(rows)
    if asked - {row.id for row in rows} and asked <= {row.id for row in split}:
        return split
    return rows


def _protocol_of_file(path: Path, protocol: Protocol) -> Protocol:
    """The protocol of scoring, with what lies beside the predictions on how they were made."""
    protocol = {**protocol, "predictions": {"name": path.name, "sha256": file_sha256(path)}}
    sidecar = predictions_sidecar(path)
    if not sidecar.is_file():
        return protocol
    from data_prep.files import read_json

    made = read_json(sidecar)
    if made.get("data", {}).get("sha256") != protocol["data"]["sha256"]:
        sys.stderr.write(f"warning: {path}: {sidecar.name} says that the answers were made for another data file\n")
    parts = ("model", "prompt", "frames", "decoding")
    return {**protocol, **{name: made[name] for name in parts if name in made}}


def _as_text(result: dict[str, Any]) -> str:
    lines = []
    for name, value in result.items():
        if isinstance(value, float):
            change = result.get("change", {}).get(name)
            lines.append(f"{name:<8} {value:7.2f}" + (f"  {change:+.2f}" if change is not None else ""))
    lines.append(f"{'rows':<8} {result['n']:7d}")
    for task, counts in result["counts"].items():
        told = [f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if name != "rows" and count]
        lines.append(f"{TASKS[task].label:<8} {', '.join(told)} of {counts['rows']}")
    if "per_window" in result:
        numbers = ", ".join(f"{name} {value:.2f}" for name, value in result["per_window"].items() if name != "n")
        lines.append(f"one row per window, {result['per_window']['n']}: {numbers}")
    for name, metrics in result.get("conventions", {}).items():
        numbers = ", ".join(f"{metric} {value:.2f}" for metric, value in metrics.items() if metric != "n")
        lines.append(f"{name}, {metrics['n']} rows: {numbers}")
    if "moment_detr" in result:
        brief = ", ".join(f"{name} {value:.2f}" for name, value in result["moment_detr"]["brief"].items())
        lines.append(f"as moment_detr: {brief}")
    if "change" in result:
        lines.append(f"change against a result of the same protocol {protocol_id(result['protocol'])}")
    lines.append(result["protocol_line"])
    return "\n".join(lines) + "\n"


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value
