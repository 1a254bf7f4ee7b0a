"""The numbers of an ablation over seeds, as Markdown, CSV and JSON: means and standard errors, paired intervals."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scipy import stats

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_json, read_jsonl
from invert_rl.ablation.config import Table
from invert_rl.ablation.jobs import LOG, SUMMARY, Job
from invert_rl.ablation.recipes import GROUNDING, VERB_TASKS, VERBS, AblatedRecipe, recipe_named

START, TEXT_ONLY, TRIVIAL = "start", "text only", "trivial rule"
CONFIDENCE = 0.95
EVAL = "eval/"


@dataclass(frozen=True)
class Result:
    """What one run ended with; metrics in percent."""

    name: str
    seed: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    seconds: float
    settings: Mapping[str, Any]
    curve: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Metrics by optimizer step, where the run validated itself."""
    world: int | None = None
    """Number of the generated world, where an ablation names several."""
    trivial: Mapping[str, float] = field(default_factory=dict)
    """What a fixed rule gets on the run's test data, where the recipe says it."""
    folder: Path | None = None
    """Where the run's files are."""


@dataclass(frozen=True)
class Statistic:
    """Mean over seeds and its standard error, ``stdev / sqrt(n)``; None with fewer than two values."""

    mean: float
    error: float | None
    n: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean by Student's t with n - 1 degrees of freedom."""
        if self.error is None:
            return None
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.n - 1)) * self.error
        return self.mean - half, self.mean + half

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.error is None else f"{self.mean:.1f} ± {self.error:.1f}"

    def as_difference(self) -> str:
        """Signed, with its interval: ``+1.2 [-0.3, +2.7]``."""
        interval = "" if self.interval is None else f" [{self.interval[0]:+.1f}, {self.interval[1]:+.1f}]"
        return f"{self.mean:+.1f}{interval}"


@dataclass(frozen=True)
class Line:
    """One line of a table: a configuration, the start model, or what the text alone allows."""

    name: str
    when: str
    """"before", "after", "guess", or "difference" (to the table's reference, seed by seed)."""
    metrics: Mapping[str, Statistic]


def read_results(jobs: Sequence[Job], recipe: AblatedRecipe | None = None) -> list[Result]:
    """Results of the jobs of ``recipe`` (default: GRPO) that are finished; raises `DataError` for a summary without
    metrics."""
    recipe = recipe or recipe_named("grpo_invert")
    results = []
    for job in jobs:
        if not job.finished:
            continue
        summary = read_json(job.folder / SUMMARY)
        if not summary.get("after"):
            raise DataError(f"{job.folder / SUMMARY}: has no metrics; give the runs eval_data")
        before, after, trivial = (
            with_verbs(in_percent(summary.get(name) or {}, recipe)) for name in ("before", "after", "trivial")
        )
        curve = read_curve(job.folder / LOG)
        seconds, settings = summary["seconds"], summary["settings"]
        results.append(
            Result(job.name, job.seed, before, after, seconds, settings, curve, job.world, trivial, job.folder)
        )
    return results


def in_percent(metrics: Mapping[str, Any], recipe: AblatedRecipe) -> dict[str, float]:
    """The metrics that the recipe's tables have, in percent."""
    return {name: recipe.scale * metrics[name] for name in recipe.metrics if name in metrics}


def with_verbs(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics and the mean of VC, AR and VD, where they have all three."""
    mean = {VERBS: statistics.fmean(metrics[name] for name in VERB_TASKS)} if set(VERB_TASKS) <= set(metrics) else {}
    return {**metrics, **mean}


def read_curve(log: Path) -> dict[int, dict[str, float]]:
    """Metrics by optimizer step of a run that validated itself (``eval/…`` in its log); empty for others."""
    curve: dict[int, dict[str, float]] = {}
    for _, entry in read_jsonl(log) if log.is_file() else ():
        found = {name.removeprefix(EVAL): value for name, value in entry.items() if name.startswith(EVAL)}
        if found.keys() & set(GROUNDING):
            curve.setdefault(int(entry["step"]), {}).update(with_verbs(found))
    return curve


def statistic(values: Sequence[float]) -> Statistic:
    """Mean and standard error of at least one value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Statistic(statistics.fmean(values), error, len(values))


def lines_of(table: Table, results: Sequence[Result], guess: Mapping[str, float] | None = None) -> list[Line]:
    """The lines of a table: what the text alone allows, start models, each configuration, and the differences.

    Configurations without a finished run are left out. Start models that answered alike share one line. A difference
    to the reference is taken seed by seed, over the seeds that both have.
    """
    columns = table.recipe.metrics
    known = {name: statistic([guess[name]]) for name in columns if name in guess} if guess else {}
    lines = [Line(TEXT_ONLY, "guess", known)] if known else []
    of_name = {name: [result for result in results if result.name == name] for name in table.rows}
    present = [name for name in table.rows if of_name[name]]
    starts: dict[str, tuple[list[str], dict[str, Statistic]]] = {}
    rules = {result.world: result.trivial for name in present for result in of_name[name] if result.trivial}
    if rules:
        lines.append(Line(TRIVIAL, "guess", _statistics(list(rules.values()), columns)))
    for name in present if table.recipe.trained_start else ():
        answers = [result.before for result in of_name[name]]
        alike = all(values == answers[0] for values in answers)  # one start model, asked once: no error to speak of
        before = _statistics(answers[:1] if alike else answers, columns)
        key = str(sorted((metric, round(value.mean, 6)) for metric, value in before.items()))
        starts.setdefault(key, ([], before))[0].append(name)
    for names, before in starts.values():
        lines.append(Line(START if len(starts) == 1 else f"{START} of {', '.join(names)}", "before", before))
    lines += [Line(name, "after", _statistics([result.after for result in of_name[name]], columns)) for name in present]
    base = {(result.world, result.seed): result.after for result in results if result.name == table.reference}
    for name in present:
        pairs = [
            (result.after, base[result.world, result.seed])
            for result in of_name[name]
            if (result.world, result.seed) in base
        ]
        if name == table.reference or not pairs:
            continue
        shared = [
            {key: mine[key] - other[key] for key in columns if key in mine and key in other} for mine, other in pairs
        ]
        lines.append(Line(f"{name} − {table.reference}", "difference", _statistics(shared, columns)))
    return lines


def _statistics(metrics: Sequence[Mapping[str, float]], columns: Sequence[str]) -> dict[str, Statistic]:
    """Of the metrics that all have."""
    return {
        name: statistic([values[name] for values in metrics])
        for name in columns
        if all(name in values for values in metrics)
    }


def as_markdown(table: Table, lines: Sequence[Line]) -> str:
    """The table as GitHub Markdown, percent: mean ± standard error, differences with their 95 % intervals."""
    columns = [name for name in table.recipe.metrics if any(name in line.metrics for line in lines)]
    rows = [f"| {' | '.join(['', *columns, 'runs'])} |", f"|---|{'---:|' * (len(columns) + 1)}"]
    for line in lines:
        values = [line.metrics.get(name) for name in columns]
        different = line.when == "difference"
        cells = ["" if value is None else value.as_difference() if different else str(value) for value in values]
        seeds = max((value.n for value in line.metrics.values()), default=0)
        rows.append(f"| {line.name} | {' | '.join(cells)} | {seeds if line.when in ('after', 'difference') else ''} |")
    return f"### {table.title}\n\n" + "\n".join(rows) + "\n"


def write_tables(
    folder: Path, tables: Mapping[Table, Sequence[Line]], results: Sequence[Result], expected: int, command: str
) -> list[Path]:
    """Write ``table.md``, ``table.csv`` and ``table.json`` into the ablation's folder; returns their paths.

    ``expected`` is the number of runs that the ablation has, ``command`` what made it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seconds = sum(result.seconds for result in results)
    note = (
        f"{len(results)} of {expected} runs, {seconds:.0f} s of runs in all; percent, mean ± standard error over "
        "runs; differences run by run with 95 % intervals by Student's t, not corrected for how many there are."
    )
    texts = [as_markdown(table, lines) for table, lines in tables.items()]
    with atomic_write(folder / "table.md") as out:
        out.write("\n".join([f"`{command}`\n", f"{note}\n", *texts]))
    with atomic_write(folder / "table.csv") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["table", "name", "when", "metric", "mean", "standard_error", "low", "high", "seeds"])
        for table, lines in tables.items():
            for line in lines:
                for name, value in line.metrics.items():
                    low, high = value.interval or (None, None)
                    writer.writerow(
                        [table.name, line.name, line.when, name, value.mean, value.error, low, high, value.n]
                    )
    content = {
        "command": command,
        "runs": len(results),
        "expected_runs": expected,
        "tables": {
            table.name: {"title": table.title, "lines": [asdict(line) for line in lines]}
            for table, lines in tables.items()
        },
        "results": [
            {name: value for name, value in asdict(result).items() if name not in ("settings", "folder")}
            for result in results
        ],
    }
    with atomic_write(folder / "table.json") as out:
        json.dump(content, out, indent=1, ensure_ascii=False)
        out.write("\n")
    return [folder / f"table.{ending}" for ending in ("md", "csv", "json")]
