"""The page: everything of a run put into one HTML text that needs no network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from invert_rl.report.charts import Point, histogram, line_chart
from invert_rl.report.completions import read_completions
from invert_rl.report.media import Kind, Medium, media_of
from invert_rl.report.run_data import Run
from invert_rl.report.samples import Sample
from invert_rl.report.tables import confusions, metric_changes, naming_table, step_times, verb_table
from invert_rl.tasks import TASKS

SHARES = (
    ("Groups with equal rewards by task", "zero_variance"),
    ("Clipped tokens by task", "clip_ratio"),
    ("Tokens a second by task", "tokens_per_second"),
    ("GPU memory by task, GiB", "gpu_memory_gib"),
)
NOT_PARTS = ("reward", "valid_answers", "refilled", "solve_rate", *(column for _, column in SHARES))
"""Columns of a task that are no rewards by name."""
NO_SCORES = ("eval/n", "eval/seconds", "eval/missing_video", "eval/epoch")
"""Columns of a validation that are no percentages."""
BY_TASK = (("Reward by task", "reward"), ("Answers that can be read", "valid_answers"), *SHARES)
"""Title and column of the charts with a line for each task."""
CURVES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("Completion length, tokens", tuple(f"completions/{name}_length" for name in ("mean", "min", "max")), ""),
    ("Cut off at the length limit", ("completions/clipped_ratio",), ""),
    ("KL to the reference", ("kl",), ""),
    ("Entropy", ("entropy",), ""),
    ("Groups with equal rewards", ("frac_reward_zero_std",), ""),
    ("Loss", ("loss",), ""),
    ("Gradient norm", ("grad_norm",), ""),
    ("Learning rate", ("learning_rate",), ""),
)
"""Title, columns of the log and unit of each chart; a chart without data is left out."""

Controls = Mapping[str, Mapping[str, float]]
"""What each control has of the metrics, as a run's ``summary.json`` tells it."""


def render_page(run: Run, samples: Sequence[Sample], kind: Kind, limit_bytes: int, others: Sequence[Run] = ()) -> str:
    """The HTML text of a run's report, with ``others`` beside it where `add_answers` has given them samples.

    ``kind`` says what is shown of a video and ``limit_bytes`` how large all of these may be together, in base64.
    Clips go to the samples that changed the most.
    """
    important = sorted(samples, key=lambda sample: (-abs(sample.change), _value(sample)))
    media: dict[str, Medium] = {}
    if run.videos is not None:
        media = media_of([sample.video for sample in important], run.videos, kind, limit_bytes)
    order = {name: number for number, name in enumerate(media)}
    parts, times = step_times(run.log)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    metrics = metric_changes(run.summary.get("before", {}), run.summary.get("after", {}))
    controls = run.summary.get("controls") or {}
    return environment.get_template("page.html.jinja").render(
        run=run,
        metrics=metrics,
        controls=controls,
        rows=run.summary.get("after", {}).get("n") or run.summary.get("before", {}).get("n"),
        others=compared(run, others),
        differing=differing_settings([run, *others]) if others else {},
        curves=[*(_beside([run, *others], controls) if others else []), *_curves(run.log, controls)],
        completions=read_completions(run.folder) if run.folder is not None else [],
        time_parts=parts,
        times=times,
        histogram=histogram("IoU of the answers to TVG", _ious(samples)),
        verbs=verb_table(samples),
        naming=naming_table(samples),
        confusions=confusions(samples),
        samples=samples,
        tasks={sample.task: sample.label for sample in samples},
        statuses=_statuses(samples),
        sample_json=as_json([_record(sample, media, order) for sample in samples]),
        media=list(media.values()),
        as_json=as_json,
        settings={name: json.dumps(value, default=str) for name, value in sorted(run.settings.items())},
    )


def as_json(value: Any) -> Markup:
    """JSON that may stand inside a script element: no ``<`` that could end it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def compared(run: Run, others: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Metrics after training of each other run by name, in the scale of `metric_changes`."""
    found = {}
    for other in others:
        changes = metric_changes(other.summary.get("before", {}), other.summary.get("after", {}))
        found[other.name] = {name: change.after for name, change in changes.items() if change.after is not None}
    return found


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings in which runs differ, each with its value in every run; folders of the runs themselves left out."""
    names = sorted({name for run in runs for name in run.settings} - {"output_dir", "logging_dir", "run_name"})
    told = {name: [json.dumps(run.settings.get(name), default=str) for run in runs] for name in names}
    return {name: values for name, values in told.items() if len(set(values)) > 1}


def _beside(runs: Sequence[Run], controls: Controls) -> list[Markup]:
    """Charts with a line for each run: reward, and each metric of the validations beside the first run's controls."""
    columns = dict.fromkeys(name for run in runs for record in run.log for name in record if name.startswith("eval/"))
    wanted = ["reward", *(name for name in columns if name not in NO_SCORES)]
    charts = []
    for column in wanted:
        series = {
            run.name: [(record["step"], record[column]) for record in run.log if column in record] for run in runs
        }
        metric = column.removeprefix("eval/")
        title = "Reward by run" if column == "reward" else f"{metric} in validation, by run"
        lines = {**series, **_levels(runs[0].log, controls, [metric])}
        charts.append(line_chart(title, {name: points for name, points in lines.items() if points}))
    return [chart for chart in charts if chart]


def _levels(log: Sequence[Mapping[str, float]], controls: Controls, metrics: Iterable[str]) -> dict[str, list[Point]]:
    """Level lines over the whole run: what each control has of those metrics."""
    ends = (log[0]["step"], log[-1]["step"]) if log else ()
    return {
        f"{metric}, {name.replace('_', ' ')}": [(step, values[metric]) for step in ends]
        for metric in metrics
        for name, values in controls.items()
        if metric in values
    }


def _curves(log: Sequence[Mapping[str, float]], controls: Controls) -> list[Markup]:
    by_task = [(title, (column, *(f"{task}/{column}" for task in TASKS)), "") for title, column in BY_TASK]
    validated = dict.fromkeys(name for record in log for name in record if name.startswith("eval/"))
    scores = tuple(name for name in validated if name not in NO_SCORES)
    validation = _series(log, scores)
    charts = [line_chart("Validation, percent", {**validation, **_levels(log, controls, validation)}, "")]
    charts += [line_chart(title, _series(log, columns), unit) for title, columns, unit in (*by_task, *CURVES)]
    for task in TASKS.values():
        names = dict.fromkeys(name for record in log for name in record if _is_part(name, task.name))
        parts = {**_series(log, tuple(names)), **_ceilings(log, task.name)}
        charts.append(line_chart(f"Parts of the reward, {task.label}", parts, ""))
    times = dict.fromkeys(name for record in log for name in record if name.startswith("time/"))
    charts.append(line_chart("Time of a step by part", _series(log, ("step_time", *times)), " s"))
    return [chart for chart in charts if chart]


def _ceilings(log: Sequence[Mapping[str, float]], task: str) -> dict[str, list[tuple[float, float]]]:
    """Level lines over the whole run: what the best blind answer earns of each reward of ``task``."""
    prefix = f"blind/{task}/"
    found = {name: value for record in log for name, value in record.items() if name.startswith(prefix)}
    ends = (log[0]["step"], log[-1]["step"]) if log else ()
    return {f"{name.removeprefix(prefix)}, blind": [(step, value) for step in ends] for name, value in found.items()}


def _is_part(column: str, task: str) -> bool:
    """Whether a column of the log is a reward of ``task`` by name."""
    first, _, last = column.partition("/")
    return first == task and last not in NOT_PARTS


def _series(log: Sequence[Mapping[str, float]], columns: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    found = {name: [(record["step"], record[name]) for record in log if name in record] for name in columns}
    return {_short(name): points for name, points in found.items() if points}


def _short(column: str) -> str:
    """``tvg/reward`` as ``TVG``, ``completions/mean_length`` as ``mean``, ``tvg/iou_reward`` as ``iou``."""
    first, _, last = column.partition("/")
    if not last:
        return "all tasks" if column == "reward" else column.replace("_", " ")
    if first in TASKS and last in ("reward", "valid_answers", *(column for _, column in SHARES)):
        return TASKS[first].label
    return last.removesuffix("_reward").removesuffix("_length").replace("_", " ")


def _ious(samples: Sequence[Sample]) -> dict[str, list[float]]:
    mine = [sample for sample in samples if TASKS[sample.task].forward]
    return {
        "before": [sample.before.value for sample in mine if sample.before],
        "after": [sample.after.value for sample in mine if sample.after],
    }


def _statuses(samples: Sequence[Sample]) -> list[str]:
    answers = [answer for sample in samples for answer in (sample.before, sample.after) if answer]
    return sorted({answer.status for answer in answers})


def _record(sample: Sample, media: Mapping[str, Medium], order: Mapping[str, int]) -> dict[str, Any]:
    medium = media.get(sample.video)
    shown = {"kind": medium.kind if medium else "none", "index": order.get(sample.video, -1)}
    if medium is not None:
        shown |= {"times": medium.times, "reason": medium.reason}
    return {**sample.record(), "media": shown}


def _value(sample: Sample) -> float:
    answer = sample.after or sample.before
    return answer.value if answer else 0.0
