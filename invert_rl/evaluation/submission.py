"""QVHighlights' test submission: a zip of two JSONL files, as its evaluation server takes them."""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from data_prep.errors import DataError
from data_prep.files import atomic_write_bytes
from data_prep.rows import Row
from invert_rl.evaluation.data import read_evaluation_rows
from invert_rl.evaluation.predictions import Prediction, check_predictions, read_predictions

FILES = {"val": "hl_val_submission.jsonl", "test": "hl_test_submission.jsonl"}
CLIP_SECONDS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl qvhighlights-submission``."""
    parser.description = (
        "Write the zip that QVHighlights' server takes from predictions on both of its splits, which may be the "
        "published annotation files or rows of convert."
    )
    for split, name in FILES.items():
        parser.add_argument(f"--{split}-data", type=Path, required=True, metavar="FILE", help=f"the {split} split")
        parser.add_argument(
            f"--{split}-predictions", type=Path, required=True, metavar="P.jsonl", help=f"what becomes {name}"
        )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.zip", help="the zip to write")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Write the zip and say what is in it; raises `DataError` for predictions that do not answer every query."""
    lines, counts = {}, {}
    for split, name in FILES.items():
        data, path = getattr(args, f"{split}_data"), getattr(args, f"{split}_predictions")
        rows = read_evaluation_rows(data)
        predictions = read_predictions(path, rows)
        check_predictions(predictions, rows, str(path))
        lines[name] = submission_lines(predictions, rows, str(path))
        counts[split] = len(rows)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, texts in lines.items():
            archive.writestr(name, "".join(texts))
    atomic_write_bytes(args.output, content.getvalue())
    told = {"output": str(args.output), **counts}
    sys.stdout.write(
        json.dumps(told) + "\n"
        if args.json
        else f"{args.output}: {counts['val']} val and {counts['test']} test queries; upload it as it is\n"
    )
    return 0


def submission_lines(predictions: Sequence[Prediction], rows: Sequence[Row], where: str) -> list[str]:
    """One line of JSON a query: ``qid, query, vid, pred_relevant_windows, pred_saliency_scores``.

    Windows are ``[start, end, score]`` in seconds, best first; where the file gives no scores the rank stands for it
    (1, 1/2, …). Saliency is the model's, or 1 for the 2 s clips that the first window touches and 0 for the others. A
    query without a readable answer gets the whole video with score 0, as the server wants a window for each. Raises
    `DataError` naming ``where`` for a query without a prediction and a row without ``meta.qid``.
    """
    answers = {prediction.id: prediction for prediction in predictions}
    missing = [row.id for row in rows if row.id not in answers]
    if missing:
        raise DataError(f"{where}: {len(missing)} of {len(rows)} queries have no prediction, such as {missing[0]}")
    lines = []
    for row in rows:
        if "qid" not in row.meta:
            raise DataError(f"{where}: row {row.id!r} has no meta.qid; is it QVHighlights?")
        answer = answers[row.id]
        scores = answer.window_scores or [1 / rank for rank in range(1, len(answer.windows) + 1)]
        windows = [[*window, score] for window, score in zip(answer.windows, scores, strict=True)]
        clips = int(row.duration / CLIP_SECONDS)
        saliency = answer.saliency or [float(_touched(place, answer.windows[:1])) for place in range(clips)]
        record = {
            "qid": row.meta["qid"],
            "query": row.query,
            "vid": Path(row.video).stem,
            "pred_relevant_windows": windows or [[0.0, row.duration, 0.0]],
            "pred_saliency_scores": saliency,
        }
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    return lines


def _touched(place: int, windows: Sequence[tuple[float, float]]) -> bool:
    return any(start < (place + 1) * CLIP_SECONDS and end > place * CLIP_SECONDS for start, end in windows)
