"""``invert-rl evaluate-detection``: mAP of temporal action localization as one of the field's evaluators counts it."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from data_prep.files import read_json
from invert_rl.evaluation.data import file_sha256
from invert_rl.evaluation.detection.ambiguous import read_ambiguous
from invert_rl.evaluation.detection.files import EPIC_LABELS, has_plain_labels, predictions_of, read_truth
from invert_rl.evaluation.detection.precision import TIES, DetectionResult
from invert_rl.evaluation.detection.protocols import PROTOCOLS, DetectionProtocol
from invert_rl.evaluation.detection.scoring import score_segments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl evaluate-detection``."""
    parser.description = (
        "mAP and recall@kx of temporal action localization, as fractions, equal to the evaluator that --protocol "
        "names. Only numbers of one protocol are comparable."
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        required=True,
        metavar="P.json",
        help='{"results": {video: [{segment, label, score}]}}',
    )
    parser.add_argument(
        "--ground-truth",
        type=Path,
        required=True,
        metavar="G.json",
        help="ActivityNet-style JSON, as convert writes it, or EPIC_100_validation.csv",
    )
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), required=True, help="whose evaluator")
    parser.add_argument("--subset", help="of the ground truth; default: the only annotated one, else the protocol's")
    parser.add_argument("--thresholds", type=_threshold, nargs="+", metavar="TIOU", help="default: the protocol's")
    parser.add_argument("--top-k", type=int, nargs="+", default=[1, 5], metavar="K", help="of recall@kx; default: 1 5")
    parser.add_argument(
        "--ties",
        choices=TIES,
        default="last",
        help="which of equal scores comes first: the last in the file (default, as the evaluators) or the first",
    )
    parser.add_argument(
        "--unknown-labels", choices=("error", "ignore"), help="predictions of classes without ground truth"
    )
    parser.add_argument(
        "--ambiguous",
        type=Path,
        metavar="FILE",
        help="lines 'video start end' in seconds, such as THUMOS14's Ambiguous_test.txt: predictions that share time "
        "with such an interval are not counted; default: all are",
    )
    parser.add_argument("--per-class", action="store_true", help="print the AP of each class, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the result; 0 on success. Raises `DataError` for bad input."""
    content = read_json(args.predictions)
    labels = ("label",) if has_plain_labels(content) or args.protocol != "epic" else EPIC_LABELS
    results = {label: score_files(args, content, label) for label in labels}
    result = dict(results[labels[-1]])  # of EPIC's three, the action is the challenge's
    if len(labels) > 1:
        shown = ("mAP", "average_mAP", "AP_per_class", "recall_top_kx")
        result |= {label: {name: results[label][name] for name in shown} for label in labels}
    sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n" if args.json else _as_text(result, args.per_class))
    return 0


def score_files(args: argparse.Namespace, content: Any, label: str) -> dict[str, Any]:
    """The result of one kind of label as ``--json`` prints it."""
    protocol = PROTOCOLS[args.protocol]
    where = str(args.predictions)
    truth = read_truth(args.ground_truth, args.subset, label, protocol.subset)
    unknown = args.unknown_labels or protocol.unknown_labels
    scored = score_segments(
        truth,
        predictions_of(content, where, label),
        protocol,
        args.thresholds,
        args.top_k,
        args.ties,
        None if args.ambiguous is None else read_ambiguous(args.ambiguous),
        unknown,
        where,
    )
    return {
        **result_of(scored.result, args.top_k),
        "thresholds": list(scored.thresholds),
        "n_videos": scored.n_videos,
        "n_ground_truth": scored.n_ground_truth,
        "n_ground_truth_dropped": scored.n_ground_truth_dropped,
        "n_predictions": scored.n_predictions,
        "n_predictions_short": scored.n_predictions_short,
        "n_predictions_ambiguous": scored.n_predictions_ambiguous,
        "n_predictions_ignored": scored.n_predictions_ignored,
        "protocol": _settings(args, protocol, unknown),
    }


def result_of(scored: DetectionResult, top_k: list[int]) -> dict[str, Any]:
    """mAP and recall as fractions: lists over thresholds, ``recall_top_kx`` one row of ``top_k`` per threshold."""
    return {
        "mAP": scored.mean_ap,
        "average_mAP": scored.average_map,
        "AP_per_class": dict(zip(scored.classes, scored.ap.tolist(), strict=True)),
        "top_k": list(top_k),
        "recall_top_kx": scored.mean_recall,
    }


def _settings(args: argparse.Namespace, protocol: DetectionProtocol, unknown: str) -> dict[str, Any]:
    return {
        "name": protocol.name,
        "subset": args.subset or protocol.subset,
        "ties": f"the {args.ties} of equal scores in the file first",
        "unknown_labels": unknown,
        "shortest_ground_truth": protocol.shortest if math.isfinite(protocol.shortest) else None,
        "merge_duplicates": protocol.merge_duplicates,
        "undefined_matches": protocol.undefined_matches,
        "snippet_seconds": None if protocol.snippet is None else protocol.snippet[1] / protocol.snippet[0],
        "shortest_prediction": protocol.shortest_prediction if math.isfinite(protocol.shortest_prediction) else None,
        "ground_truth": {"name": args.ground_truth.name, "sha256": file_sha256(args.ground_truth)},
        "ambiguous": None
        if args.ambiguous is None
        else {"name": args.ambiguous.name, "sha256": file_sha256(args.ambiguous)},
        "predictions": {"name": args.predictions.name, "sha256": file_sha256(args.predictions)},
    }


def _as_text(result: dict[str, Any], per_class: bool) -> str:
    wide = max([16, *(len(name) for name in result["AP_per_class"])]) if per_class else 16
    lines = [f"{'tIoU':<{wide}}" + "".join(f"{threshold:7.2f}" for threshold in result["thresholds"]) + "    mean"]
    rows = {label: result[label]["mAP"] for label in EPIC_LABELS if label in result} or {"": result["mAP"]}
    for label, values in rows.items():
        lines.append(_line(f"mAP {label}".strip(), values, wide))
    for place, k in enumerate(result["top_k"]):
        lines.append(_line(f"recall@{k}x", [values[place] for values in result["recall_top_kx"]], wide))
    if per_class:
        lines += [_line(name, values, wide) for name, values in result["AP_per_class"].items()]
    settings = result["protocol"]
    lines.append(
        f"protocol {settings['name']}: {result['n_ground_truth']} ground truths of {result['n_videos']} videos "
        f"({result['n_ground_truth_dropped']} dropped), {result['n_predictions']} predictions "
        f"({result['n_predictions_ignored']} of unknown classes, {result['n_predictions_ambiguous']} ambiguous, "
        f"{result['n_predictions_short']} too short), "
        f"{settings['ties']}"
    )
    return "\n".join(lines) + "\n"


def _line(name: str, values: list[float], wide: int) -> str:
    mean = sum(values) / len(values)
    return f"{name:<{wide}}" + "".join(f"{value:7.4f}" for value in values) + f"{mean:8.4f}"


def _threshold(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a tIoU in (0, 1]")
    return value
