"""TimeLens-Bench's submission form: answers by ``VIDEO>>>QUERY>>>[start, end]``, as one JSON object or line by line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import atomic_write, decode_json
from data_prep.rows import Row, Window
from invert_rl.evaluation.protocols.rules import annotated_windows, clean_query

BETWEEN = ">>>"
BEHIND = (10.0, 20.0)
"""Seconds behind the end of the video: where TimeLens puts an answer that cannot be read, so that it hits nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl timelens-submission``."""
    parser.description = (
        "Write predictions in TimeLens-Bench's form: whole seconds and the answer by video, query and annotated "
        "window. `invert-rl evaluate --predictions` reads that form, too."
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DATA.jsonl", help="rows of TimeLens-Bench")
    parser.add_argument("--predictions", type=Path, required=True, metavar="P.jsonl", help="answers to them")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="FILE.json is one object, FILE.jsonl has a line each"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Write the file; raises `DataError` for predictions that do not answer every query."""
    from invert_rl.evaluation.data import read_evaluation_rows
    from invert_rl.evaluation.predictions import check_predictions, read_predictions

    if args.output.suffix not in (".json", ".jsonl"):
        raise DataError(f"--output {args.output}: the name must end in .json or .jsonl, which says the form")
    rows = read_evaluation_rows(args.data)
    predictions = read_predictions(args.predictions, rows)
    check_predictions(predictions, rows, str(args.predictions))
    answers = {prediction.id: prediction for prediction in predictions}
    missing = [row.id for row in rows if row.id not in answers]
    if missing:
        raise DataError(
            f"{args.predictions}: {len(missing)} of {len(rows)} queries have no prediction, such as {missing[0]}"
        )
    entries = {key_of(row): entry_of(answers[row.id].windows, answers[row.id].text, row) for row in rows}
    with atomic_write(args.output) as out:
        if args.output.suffix == ".json":
            out.write(json.dumps(entries, ensure_ascii=False, indent=1) + "\n")
        else:
            out.writelines(json.dumps({key: entry}, ensure_ascii=False) + "\n" for key, entry in entries.items())
    told = {"output": str(args.output), "rows": len(rows), "entries": len(entries)}
    same = f" ({len(rows) - len(entries)} rows are equal to a later one)" if len(entries) < len(rows) else ""
    sys.stdout.write(json.dumps(told) + "\n" if args.json else f"{args.output}: {len(entries)} answers{same}\n")
    return 0


def key_of(row: Row) -> str:
    """The row's name in a submission; raises `DataError` for a row with several windows: TimeLens-Bench has none."""
    if len(row.windows) != 1:
        raise DataError(f"row {row.id!r} ({row.place}): {len(row.windows)} windows; TimeLens-Bench has one a query")
    video = Path(row.video)
    name = video.name if video.suffix else f"{video.name}.mp4"
    return BETWEEN.join((name, clean_query(row.query), json.dumps(list(annotated_windows(row)[0]))))


def entry_of(windows: Sequence[Window], text: str, row: Row) -> dict[str, Any]:
    """``timestamps`` in whole seconds, as its evaluation stores them before it scores, and the answer."""
    start, end = windows[0] if windows else (row.duration + BEHIND[0], row.duration + BEHIND[1])
    times = [float(round(start)), float(round(end))] if windows else [start, end]
    said = text or (f"The event happens in {start} - {end} seconds." if windows else "")
    return {"timestamps": [times], "answers": said}


def is_submission(content: str) -> bool:
    """Whether a file's text begins as a submission does."""
    start = content[: 1 << 16].lstrip()
    key = start[1:].lstrip().split('": {', 1)[0]
    return start.startswith("{") and key.count(BETWEEN) == 2


def submitted(content: str, path: str, rows: Sequence[Row]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The answers of a submission as prediction records, each with where it stands; one for each row of that name.

    A name that no row has stays as it is. Raises `DataError` for malformed JSON.
    """
    ids: dict[tuple[str, str, Any], list[str]] = {}
    for row in rows:
        if len(row.windows) == 1:
            ids.setdefault(_identity(key_of(row), path), []).append(row.id)
    for where, entries in _objects(content, path):
        for key, entry in entries.items():
            place = f"{where}: {key!r}"
            if not isinstance(entry, Mapping) or not isinstance(entry.get("timestamps"), list):
                raise DataError(f"{place}: expected an object with 'timestamps', a list of [start, end]")
            for name in ids.get(_identity(key, place), [key]):
                text = str(entry.get("answers") or "")
                yield place, {"id": name, "windows": entry["timestamps"], **({"text": text} if text else {})}


def _objects(content: str, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = [(number, line) for number, line in enumerate(content.split("\n"), start=1) if line.strip()]
    try:
        json.loads(lines[0][1])
    except json.JSONDecodeError:  # one object over several lines
        yield path, decode_json(content, path, 1)
        return
    for number, line in lines:
        yield f"{path}:{number}", decode_json(line, path, number)


def _identity(key: str, where: str) -> tuple[str, str, Any]:
    """Video without ending, cleaned query, and window of a name in a submission."""
    parts = key.split(BETWEEN)
    try:
        video, query, span = parts
        start, end = (float(time) for time in json.loads(span))
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: expected VIDEO{BETWEEN}QUERY{BETWEEN}[start, end]") from error
    return Path(video).stem, clean_query(query), (start, end)
