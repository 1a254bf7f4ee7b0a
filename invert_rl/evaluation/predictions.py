"""Predictions: one answer to one task for one row, their JSONL file, and what can be wrong with such a file."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_prep.errors import DataError
from data_prep.files import atomic_write, iter_records, read_text
from data_prep.rows import Row, Window, is_seconds, split_windows
from invert_rl.evaluation.timelens_submission import is_submission, submitted
from invert_rl.tasks import DEFAULT_TASK, TASKS, Task
from invert_rl.video.errors import TOO_LONG

OK, UNPARSABLE, MISSING_VIDEO = "ok", "unparsable", "missing_video"

Units = Literal["seconds", "milliseconds", "fractions"]

FAR_OUTSIDE = 20.0
"""A window that ends after this many lengths of its video is not in seconds."""
FEWEST_TO_JUDGE = 3
"""With fewer windows than this nothing is said about the file's unit."""
SHOWN = 3
"""How many examples an error message names."""


@dataclass
class Prediction:
    """One answer; every annotated row gets one, whatever happened to its video."""

    id: str
    task: str
    windows: list[Window] = field(default_factory=list)
    """Predicted windows in seconds, best first; empty for verb tasks and where none could be read."""
    text: str = ""
    status: str = OK
    """ok, unparsable, missing_video, or too_long: a prompt with more tokens than the model takes."""
    score: float = 0.0
    """IoU is left to the metrics; for verb tasks the reward, 0 or 1."""
    window_scores: list[float] = field(default_factory=list)
    """Confidence of each window where the file gives one; only QVHighlights' mAP looks at it."""
    saliency: list[float] = field(default_factory=list)
    """Scores of the video's 2 s clips in a QVHighlights submission, for highlight detection."""

    def record(self) -> dict[str, Any]:
        """The prediction as one JSON line of a predictions file."""
        record = asdict(self)
        for name in ("window_scores", "saliency"):
            if not record[name]:
                del record[name]
        return record


def unanswered(jobs: Sequence[tuple[Task, Row]], too_long: Sequence[int] = ()) -> list[Prediction]:
    """Empty predictions of rows whose video cannot be used; of those at the places ``too_long`` the prompt is."""
    predictions = [Prediction(row.id, task.name, status=MISSING_VIDEO) for task, row in jobs]
    for place in too_long:
        predictions[place].status = TOO_LONG
    return predictions


def read_answer(prediction: Prediction, text: str, task: Task, row: Row) -> None:
    """Set text, status and windows, as the task reads a completion."""
    windows = task.read(text, row)
    prediction.text = text
    prediction.status = UNPARSABLE if windows is None else OK
    prediction.windows = windows or []


def write_predictions(predictions: Iterable[Prediction], path: str | os.PathLike[str]) -> None:
    """Write a predictions file, whole or not at all."""
    with atomic_write(path) as out:
        for prediction in predictions:
            out.write(json.dumps(prediction.record(), ensure_ascii=False) + "\n")


def read_predictions(
    path: str | os.PathLike[str],
    rows: Sequence[Row],
    unfinished: bool = False,
    tasks: Mapping[str, Task] = TASKS,
) -> list[Prediction]:
    """Read a predictions file; a line is a `Prediction` record or one of a submission to QVHighlights,
    VUE-TR or TimeLens-Bench.

    ``task`` is "tvg" where it is not given, windows are ``[start, end]`` or ``[start, end, confidence]``, and a line
    without windows but with ``text`` is read as its task does. A submission's ``qid`` or ``query_id`` means the row
    with that one in its ``meta``; VUE-TR's are a JSON list with ``answer``. Where a named protocol has a reader of its
    own, texts are read anew by it. ``unfinished``: the file is being written, so that what follows the last line end
    does not count and there may be nothing. Raises `DataError` naming file and line for a malformed line and for a
    file that was cut off.
    """
    id_of_qid = {str(row.meta[name]): row.id for row in rows for name in ("query_id", "qid") if name in row.meta}
    by_id = {row.id: row for row in [*split_windows(rows), *rows]}
    predictions: list[Prediction] = []
    if unfinished:
        lines = Path(path).read_bytes().decode("utf-8", errors="replace").split("\n")[:-1]
    else:
        content = read_text(path)
        if content.lstrip().startswith("["):
            return [_prediction(record, where, id_of_qid, by_id, tasks) for _, where, record in iter_records(path)]
        if is_submission(content):
            answers = submitted(content, str(path), rows)
            return [_prediction(record, where, id_of_qid, by_id, tasks) for where, record in answers]
        lines = content.split("\n")
    last = max((number for number, line in enumerate(lines) if line.strip()), default=0)
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        where = f"{path}:{number + 1}"
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            if number == last:
                raise DataError(
                    f"{where}: the last line is cut off after {len(predictions)} whole predictions; the data "
                    f"has {len(rows)} rows; finish the file with the command that wrote it, or delete the line"
                ) from error
            raise DataError(f"{where}: not valid JSON ({error})") from error
        predictions.append(_prediction(record, where, id_of_qid, by_id, tasks))
    return predictions


def _prediction(
    record: Any, where: str, id_of_qid: dict[str, str], by_id: Mapping[str, Row], tasks: Mapping[str, Task]
) -> Prediction:
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(record).__name__}")
    if "qid" in record and "pred_relevant_windows" in record:
        qid = str(record["qid"])
        name: Any = id_of_qid.get(qid, f"qid {qid}")
        windows = record["pred_relevant_windows"]
    elif "answer" in record and ("query_id" in record or isinstance(record.get("id"), int)):
        qid = str(record.get("query_id", record.get("id")))
        name, windows = id_of_qid.get(qid, f"query_id {qid}"), record["answer"]
        windows = [] if windows == [[]] else windows
        record = {**record, "task": DEFAULT_TASK}
    else:
        name, windows = record.get("id"), record.get("windows")
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: field 'id' must be a non-empty string, found {name!r}")
    where = f"{where} (id {name!r})"
    task = record.get("task", DEFAULT_TASK)
    if task not in tasks:
        raise DataError(f"{where}: unknown task {task!r}; the tasks are {', '.join(tasks)}")
    text, status = record.get("text", ""), record.get("status", OK)
    if not isinstance(text, str) or not isinstance(status, str):
        raise DataError(f"{where}: fields 'text' and 'status' must be strings")
    score = record.get("score", 0.0)
    if not is_seconds(score):
        raise DataError(f"{where}: field 'score' must be a finite number, found {score!r}")
    prediction = Prediction(name, task, text=text, status=status, score=float(score))
    rules = getattr(tasks[task], "rules", None)
    reread = rules is not None and rules.reader and text and status in (OK, UNPARSABLE)
    if (windows is None and status == OK) or reread:
        if "text" not in record:
            raise DataError(f"{where}: neither 'windows' nor 'text' is there; one of them must hold the answer")
        if name in by_id:  # `check_predictions` says which are not
            read_answer(prediction, text, tasks[task], by_id[name])
        return prediction
    windows = [] if windows is None else windows
    if not isinstance(windows, list):
        raise DataError(f"{where}: 'windows' must be a list of [start, end], found {windows!r}")
    for window in windows:
        if not isinstance(window, list) or len(window) not in (2, 3):
            raise DataError(f"{where}: window {window!r} is not [start, end] or [start, end, confidence]")
        if not all(is_seconds(value) for value in window):
            raise DataError(f"{where}: window {window!r} holds something that is not a finite number")
        prediction.windows.append((float(window[0]), float(window[1])))
        if len(window) == 3:
            prediction.window_scores.append(float(window[2]))
    if len(prediction.window_scores) not in (0, len(windows)):
        raise DataError(f"{where}: only some of the windows have a confidence; give all of them one, or none")
    saliency = record.get("pred_saliency_scores") or record.get("saliency") or []
    if not isinstance(saliency, list) or not all(is_seconds(value) for value in saliency):
        raise DataError(f"{where}: the saliency scores must be a list of finite numbers")
    prediction.saliency = saliency
    return prediction


def check_predictions(
    predictions: Sequence[Prediction], rows: Sequence[Row], where: str, tasks: Mapping[str, Task] = TASKS
) -> None:
    """Refuse ids that no row has and rows answered twice; raises `DataError` with how many and which.

    Verb tasks are asked once per window, so their ids are those of `split_windows`. Rows without a prediction are no
    error: they count as wrong and are reported.
    """
    parts = {row.id for row in split_windows(rows)}
    known = {name: {row.id for row in tasks[name].rows(rows)} for name in dict.fromkeys(p.task for p in predictions)}
    for name, ids in known.items():
        if tasks[name].segment:
            ids |= parts  # also those that cannot be asked: their answers count nothing
    unknown = [p.id for p in predictions if p.id not in known[p.task]]
    if unknown:
        raise DataError(
            f"{where}: {len(unknown)} of {len(predictions)} predictions have an unknown id, one that no row of the "
            f"data has ({_some(unknown)}); were they made for another file or split?"
        )
    counts = Counter((p.task, p.id) for p in predictions)
    twice = [f"{name} ({task})" for (task, name), count in counts.items() if count > 1]
    if twice:
        raise DataError(
            f"{where}: {len(twice)} rows have duplicate predictions ({_some(twice)}), {len(predictions)} predictions "
            f"for {len(counts)} rows and tasks; keep one of each"
        )


def in_seconds(
    predictions: Sequence[Prediction], rows: Sequence[Row], units: Units | None, where: str
) -> list[Prediction]:
    """The predictions with windows in seconds; ``units`` says what the file holds, None that nobody said.

    Then a file that looks like milliseconds, frames or fractions of the video raises `DataError` with the counts.
    """
    duration = {row.id: row.duration for row in split_windows(rows)} | {row.id: row.duration for row in rows}
    if units == "seconds":
        return list(predictions)
    if units is not None:
        for p in predictions:
            factor = 0.001 if units == "milliseconds" else duration[p.id]
            p.windows = [(start * factor, end * factor) for start, end in p.windows]
        return list(predictions)
    first = [(p.windows[0][1], duration[p.id]) for p in predictions if p.windows]
    if len(first) < FEWEST_TO_JUDGE:
        return list(predictions)
    far = sum(end > FAR_OUTSIDE * seconds for end, seconds in first)
    if 2 * far > len(first):
        raise DataError(
            f"{where}: {far} of {len(first)} predicted windows end after {FAR_OUTSIDE:g} times the length of their "
            "video: milliseconds or frames? Say --units milliseconds, or --units seconds if they are seconds indeed"
        )
    fractions = sum(end <= 1.0 < seconds / 4 for end, seconds in first)
    if fractions == len(first):
        raise DataError(
            f"{where}: all {len(first)} predicted windows end within the first second of their video: fractions of its "
            "length? Say --units fractions, or --units seconds if they are seconds indeed"
        )
    return list(predictions)


def predictions_sidecar(path: str | os.PathLike[str]) -> Path:
    """Where the protocol of a predictions file lies: ``p.jsonl`` has ``p.protocol.json``."""
    return Path(path).with_suffix(".protocol.json")


def _some(names: Sequence[str]) -> str:
    more = f", … {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
