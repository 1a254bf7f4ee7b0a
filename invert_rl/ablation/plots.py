"""Pictures of an ablation's tables: bars by configuration, or curves over a setting such as p (paper, Fig. 5)."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from data_prep.errors import DataError
from invert_rl.ablation.config import Table
from invert_rl.ablation.recipes import VERBS
from invert_rl.ablation.table import Line, Result, statistic

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
"""Told apart by everybody (Okabe and Ito)."""
MARKS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":", "-.")
ENDINGS = ("png", "svg")


def require_matplotlib() -> None:
    """Raise `DataError` with the remedy where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise DataError("plots need matplotlib: pip install -e '.[plots]', or go without by --plots false")


def draw(
    table: Table, lines: Sequence[Line], places: Mapping[str, float], folder: Path, results: Sequence[Result] = ()
) -> list[Path]:
    """Draw a table's plot as PNG and SVG into ``folder``; returns the paths, none where there is nothing to draw.

    ``places`` gives the place of each configuration on the axis of a curve; ``results`` the runs' own validations,
    which are drawn over steps.
    """
    if table.plot == "none":
        return []
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    after = [line for line in lines if line.when == "after"]
    others = [line for line in lines if line.when in ("guess", "before")]
    if not after:
        return []
    shown = others + after
    wide = max(6.0, 1.0 + 0.28 * len(table.metrics) * len(shown)) if table.plot == "bars" else 6.5
    figure = Figure(figsize=(wide, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    if table.plot == "bars":
        _bars(axes, table.metrics, shown)
    elif table.plot == "steps":
        _steps(axes, table, lines, results)
    elif table.plot == "frontier":
        _frontier(axes, after, others)
    else:
        _curves(axes, table, after, others, places)
    axes.set_title(fill(table.title, int(11 * wide)), fontsize=10, loc="left")  # about 12 letters an inch
    if table.plot != "frontier":
        axes.set_ylabel("percent, mean ± standard error")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.5, alpha=0.5)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=len(table.metrics) + 1, frameon=False, fontsize=9)
    paths = [folder / f"{table.name}.{ending}" for ending in ENDINGS]
    for path in paths:
        metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(path, dpi=150, metadata=metadata)
    return paths


def _bars(axes: Any, metrics: Sequence[str], lines: Sequence[Line]) -> None:
    width = 0.8 / len(metrics)
    for number, metric in enumerate(metrics):
        used = [(place, line) for place, line in enumerate(lines) if metric in line.metrics]
        x = [place + (number - (len(metrics) - 1) / 2) * width for place, _ in used]
        values = [line.metrics[metric] for _, line in used]
        colour = COLOURS[number % len(COLOURS)]
        errors = [math.nan if value.error is None else value.error for value in values]
        axes.bar(x, [value.mean for value in values], width * 0.92, label=metric, color=colour)
        axes.errorbar(
            x, [value.mean for value in values], errors, fmt="none", ecolor="#333333", elinewidth=1, capsize=2
        )
    axes.set_xticks(range(len(lines)), [line.name for line in lines], rotation=25, ha="right", fontsize=9)
    axes.set_ylim(bottom=0)


def _curves(
    axes: Any, table: Table, after: Sequence[Line], others: Sequence[Line], places: Mapping[str, float]
) -> None:
    for number, metric in enumerate(table.metrics):
        used = sorted((line for line in after if metric in line.metrics), key=lambda line: places[line.name])
        values = [line.metrics[metric] for line in used]
        colour = COLOURS[number % len(COLOURS)]
        axes.errorbar(
            [places[line.name] for line in used],
            [value.mean for value in values],
            [value.error or 0.0 for value in values],
            label=metric,
            color=colour,
            marker=MARKS[number % len(MARKS)],
            capsize=3,
        )
        for line in others:
            if line.when == "before" and metric in line.metrics:
                axes.axhline(line.metrics[metric].mean, color=colour, linestyle=":", linewidth=1)
    axes.plot([], [], color="#333333", linestyle=":", linewidth=1, label="start model")
    axes.set_xlabel("probability p of TVG" if table.x == "tvg_probability" else table.x)
    axes.set_xticks(sorted({places[line.name] for line in after}))


def _steps(axes: Any, table: Table, lines: Sequence[Line], results: Sequence[Result]) -> None:
    """One line for each configuration and metric over the steps at which all of its runs validated."""
    start = next((line.metrics for line in lines if line.when == "before"), {})
    for number, name in enumerate(table.rows):
        curves = [result.curve for result in results if result.name == name and result.curve]
        if not curves:
            continue
        steps = sorted(set.intersection(*map(set, curves)))
        for kind, metric in enumerate(table.metrics):
            points = [(0, start[metric])] if metric in start else []
            points += [
                (step, statistic([curve[step][metric] for curve in curves]))
                for step in steps
                if all(metric in curve[step] for curve in curves)
            ]
            axes.errorbar(
                [step for step, _ in points],
                [value.mean for _, value in points],
                [value.error or 0.0 for _, value in points],
                label=f"{name}, {metric}",
                color=COLOURS[number % len(COLOURS)],
                linestyle=LINES[kind % len(LINES)],
                marker=MARKS[number % len(MARKS)],
                capsize=2,
            )
    axes.set_xlabel("optimizer step")


def look_of(number: int) -> dict[str, str]:
    """Colour and mark of a plot's line; a colour that is used again has another mark."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKS[(number + number // len(COLOURS)) % len(MARKS)],
    }


def _frontier(axes: Any, after: Sequence[Line], others: Sequence[Line]) -> None:
    """One point for each configuration: grounding to the right, action understanding upwards."""
    for number, line in enumerate(line for line in [*others, *after] if {"mIoU", VERBS} <= line.metrics.keys()):
        x, y = line.metrics["mIoU"], line.metrics[VERBS]
        axes.errorbar(
            x.mean,
            y.mean,
            y.error or 0.0,
            x.error or 0.0,
            label=line.name,
            **look_of(number),
            capsize=3,
        )
    axes.set_xlabel("mIoU, percent")
    axes.set_ylabel("mean of VC, AR and VD, percent")
