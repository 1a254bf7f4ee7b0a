"""Reading a run folder: its log, its summary, the samples it scored before and after, and the rows behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import read_json
from data_prep.rows import Row, split_windows
from data_prep.verbs import annotate_verbs
from invert_rl.evaluation.data import read_evaluation_rows
from invert_rl.evaluation.predictions import Prediction, check_predictions, read_predictions
from invert_rl.tasks import DEFAULT_PRESET, DEFAULT_TASK, TASKS, Task, load_preset
from invert_rl.tasks.options import pipeline_for
from rewards.pipelines import VerbPipeline

SUMMARY = "summary.json"


@dataclass
class Run:
    """What a run folder holds; anything but the log or the samples may be missing."""

    name: str
    folder: Path | None = None
    log: list[dict[str, float]] = field(default_factory=list)
    """One record per logging step, by rising ``step``."""
    summary: dict[str, Any] = field(default_factory=dict)
    before: list[Prediction] = field(default_factory=list)
    after: list[Prediction] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    """The rows that the predictions answer."""
    videos: Path | None = None
    quarantine: dict[str, str] = field(default_factory=dict)
    """Reason by video that training left out."""
    notes: list[str] = field(default_factory=list)
    """What was missing or odd, for the reader."""
    tasks: Mapping[str, Task] = field(default_factory=lambda: TASKS)
    """The tasks as they were asked."""
    pipeline: VerbPipeline | None = None
    """What finds the verbs of the answers; None where no task needs them."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the run, as its summary has them."""
        return self.summary.get("settings", {})


def read_run(
    folder: Path, data: Path | None = None, videos: Path | None = None, verb_pipeline: str | None = None
) -> Run:
    """Read a run folder; ``data``, ``videos`` and ``verb_pipeline`` replace those in its summary.

    Raises `DataError` if it is no run folder, if a file in it is damaged, or if the rows or the video folder that its
    samples need are not where the summary says.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such run folder")
    run = Run(folder.resolve().name, folder)
    if (folder / SUMMARY).is_file():
        run.summary = read_json(folder / SUMMARY)
    else:
        run.notes.append(f"There is no {SUMMARY}: the run has not ended, or was stopped.")
    run.log = _read_log(folder / "log.jsonl", run.notes)
    if (folder / "quarantine.json").is_file():
        run.quarantine = read_json(folder / "quarantine.json")
    paths = {name: folder / f"samples_{name}.jsonl" for name in ("before", "after")}
    paths = {name: path for name, path in paths.items() if path.is_file() and path.stat().st_size}
    others = {name: path for name, path in paths.items() if not _of_grounding(path)}
    paths = {name: path for name, path in paths.items() if name not in others}
    if others:
        run.notes.append(f"Samples are shown of TVG, VC, AR and VD; those of this run are of another kind: {folder}.")
    if not run.log and not paths and not others:
        raise DataError(f"{folder}: holds neither log.jsonl nor samples_before.jsonl or samples_after.jsonl: not a run")
    if not paths and not others:
        run.notes.append("The run scored no samples of TVG, VC, AR or VD: curves and metrics are all there is.")
    if not paths:
        return run
    if "after" not in paths:
        run.notes.append("There are no samples of the trained model: the run has not ended, or was stopped.")
    rows = read_evaluation_rows(_path(data, run.settings.get("eval_data"), "--data", "the rows of the samples", folder))
    run.tasks = _tasks(run)
    found = {name: read_predictions(path, rows, tasks=run.tasks) for name, path in paths.items()}
    names = dict.fromkeys(p.task for predictions in found.values() for p in predictions)
    run.pipeline = pipeline_for(names, verb_pipeline or run.settings.get("verb_pipeline"))
    if run.pipeline is not None:
        rows = annotate_verbs(rows, run.pipeline)
    for name, predictions in found.items():
        check_predictions(predictions, rows, str(paths[name]), run.tasks)
        setattr(run, name, predictions)
    asked = {p.id for p in (*run.before, *run.after)}
    whole = any(not task.segment and task.needs_verbs and task.name in names for task in run.tasks.values())
    parts = [(row, [row.id, *(part.id for part in split_windows([row]))]) for row in rows]
    run.rows = [row for row, ids in parts if whole or asked.intersection(ids)]  # all, where rows are made of others
    run.videos = _path(videos, run.settings.get("video_root"), "--videos", "the video folder", folder)
    return run


def _tasks(run: Run) -> Mapping[str, Task]:
    """The tasks as the run's settings word them; a preset file that is gone leaves the default wording, with a note."""
    windows = run.settings.get("windows", "any")
    try:
        preset = load_preset(run.settings.get("prompt", DEFAULT_PRESET), (), windows)
    except DataError as error:
        run.notes.append(f"The prompts of the run cannot be read: {error}.")
        preset = load_preset(DEFAULT_PRESET, (), windows)
    return {**load_preset(DEFAULT_PRESET, (), windows).tasks, **preset.tasks}


def _of_grounding(path: Path) -> bool:
    """Whether the first sample of a file answers a task that is known; a damaged line is left to its reader."""
    with path.open(encoding="utf-8") as lines:
        first = lines.readline()
    try:
        record = json.loads(first)
    except json.JSONDecodeError:
        return True
    return not isinstance(record, dict) or record.get("task", DEFAULT_TASK) in TASKS


def _path(given: Path | None, of_run: str | None, option: str, what: str, folder: Path) -> Path:
    """The path that was given, else the one in the run's settings; raises `DataError` if it is not there."""
    if given is None and not of_run:
        raise DataError(f"{folder / SUMMARY}: does not say where {what} are; give {option}")
    path = given if given is not None else Path(str(of_run))
    if not path.exists():
        raise DataError(f"{path}: no such file or folder, needed as {what}; give its place with {option}")
    return path


def _read_log(path: Path, notes: list[str]) -> list[dict[str, float]]:
    """Numbers of each logging step; of a step that a resumed run logged again the last record counts."""
    if not path.is_file():
        notes.append("There is no log.jsonl: no curves.")
        return []
    by_step: dict[float, dict[str, float]] = {}
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                notes.append("The last line of log.jsonl is cut off and was left out.")
                break
            raise DataError(f"{path}:{number}: not valid JSON ({error.msg})") from error
        if not isinstance(record, dict) or not isinstance(record.get("step"), int | float):
            raise DataError(f"{path}:{number}: expected an object with 'step'")
        if "train_runtime" in record:
            continue
        numbers = {
            name: float(value)
            for name, value in record.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        by_step[numbers["step"]] = numbers
    return [by_step[step] for step in sorted(by_step)]
