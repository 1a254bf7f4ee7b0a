"""What every supervised run leaves beside its model: detections, the ground truth they were scored on, and a table."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from data_prep.files import atomic_write
from invert_rl.evaluation.detection.files import scored_annotations

RESULTS, GROUND_TRUTH, AMBIGUOUS = "results.json", "ground_truth.json", "ambiguous.txt"
COUNTS = ("n", "step", "seconds", "rule", "rules")
"""What stands among metrics and is no share."""


def write_outcome(
    folder: Path,
    results: Mapping[str, Any],
    database: Mapping[str, Any],
    subset: str,
    protocol: str,
    thresholds: Sequence[float],
    ambiguous: Path | None = None,
) -> str:
    """Write ``results.json`` and ``ground_truth.json`` into a run folder; returns the command that scores them again.

    ``results`` ``{video: [{"segment", "label", "score"}]}`` and the annotation ``database``, both in seconds; of the
    latter the videos of ``subset`` are written with the annotations that count. ``ambiguous`` is copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truth = {}
    for video, record in database.items():
        if str(record.get("subset")).casefold() == subset.casefold():
            facts = {name: value for name, value in record.items() if name != "published"}
            truth[video] = {**facts, "annotations": scored_annotations(record)}
    write_results(folder / RESULTS, results)
    with atomic_write(folder / GROUND_TRUTH) as out:
        json.dump({"version": "invert-rl", "database": truth}, out)
    command = ["invert-rl", "evaluate-detection", "--predictions", RESULTS, "--ground-truth", GROUND_TRUTH]
    command += ["--protocol", protocol, "--unknown-labels", "ignore"]
    command += ["--thresholds", *(f"{level:g}" for level in thresholds)]
    if ambiguous is not None:
        shutil.copyfile(ambiguous, folder / AMBIGUOUS)
        command += ["--ambiguous", AMBIGUOUS]
    return shlex.join(command)


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write detections ``{video: [{"segment", "label", "score"}]}`` in ActivityNet's layout, whole or not at all."""
    with atomic_write(path) as out:
        json.dump({"version": "invert-rl", "results": results, "external_data": {}}, out)


def metrics_table(columns: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """Fractions side by side in percent, with ``NAME_std`` behind NAME; those that a column lacks stay empty.

    The title gets the number of ground truths, ``n``, that the columns count.
    """
    counted = sorted({int(metrics["n"]) for metrics in columns.values() if "n" in metrics})
    if counted:
        title += f" ({' or '.join(f'{n:,}' for n in counted)} ground truths)"
    made = Table("metric", title=title)
    for name in columns:
        made.add_column(name, justify="right")
    for name in dict.fromkeys(name for metrics in columns.values() for name in metrics):
        if name not in COUNTS and not name.endswith("_std"):
            made.add_row(name, *(_percent(metrics, name) for metrics in columns.values()))
    return made


def _percent(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    deviation = f" ± {100 * metrics[f'{name}_std']:.1f}" if f"{name}_std" in metrics else ""
    return f"{100 * metrics[name]:.1f}{deviation}"
