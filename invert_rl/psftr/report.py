"""What a run leaves: evaluations by step, detections, and summaries of one split and of several."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data_prep.files import read_json, read_jsonl
from invert_rl.psftr.experiment import Metrics, Results
from invert_rl.recipe.run_log import forget_later_steps
from invert_rl.recipe.summary import write_summary
from invert_rl.run_folder import SUMMARY
from invert_rl.tal.outcome import COUNTS, metrics_table

EVALUATIONS = "evaluations.jsonl"
"""Metrics by step in a split's folder; step 0 is the untrained model."""
CONDITIONS = ("before", "after", "shuffled", "best", "trivial")
"""Untrained, after the last step, the same with each class's text given to another, the best on the way, and on
generated data the best fixed rule."""


class Evaluations(TrainerCallback):
    """The metrics of the unseen classes at the start, every so many steps and at the end, by the main process."""

    def __init__(self, evaluate: Callable[[], tuple[Metrics, Results]], folder: Path, every: int) -> None:
        """``every`` 0: only what `at` is asked for."""
        self.evaluate, self.path, self.every = evaluate, folder / EVALUATIONS, every

    def at(self, step: int) -> tuple[Metrics, Results]:
        """Measure now and write it down as the metrics of ``step``."""
        metrics, results = self.evaluate()
        forget_later_steps(self.path, step - 1)
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"step": step, **metrics}) + "\n")
        return metrics, results

    def known(self) -> dict[int, Metrics]:
        """Metrics by step."""
        if not self.path.is_file():
            return {}
        entries = [dict(entry) for _, entry in read_jsonl(self.path)]
        return {int(entry.pop("step")): entry for entry in entries}

    def best(self) -> Metrics:
        """The trained step of the highest ``average_mAP``, and its ``step``.

        It is chosen on the test videos, as GAP chooses its epoch: show it beside the last step, never instead.
        """
        step, metrics = max(
            ((step, metrics) for step, metrics in self.known().items() if step), key=lambda pair: pair[1]["average_mAP"]
        )
        return {"step": step, **metrics}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            forget_later_steps(self.path, state.global_step)
            if 0 not in self.known():
                self.at(0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        due = self.every and state.global_step % self.every == 0 and state.global_step < state.max_steps
        if due and state.is_world_process_zero:
            self.at(state.global_step)


def write_report(
    folder: Path, conditions: Mapping[str, Metrics], seconds: float, settings: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    """Write ``summary.json`` with the metrics of `CONDITIONS`, fractions, and return it; ``more`` stands beside."""
    beside = {name: metrics for name, metrics in conditions.items() if name not in ("before", "after")}
    path = write_summary(str(folder), conditions["before"], conditions["after"], seconds, settings, **beside, **more)
    return read_json(path)


def read_report(folder: Path) -> dict[str, Any] | None:
    """The summary of a split that is done, or None."""
    return read_json(folder / SUMMARY) if (folder / SUMMARY).is_file() else None


def over_splits(reports: Sequence[Mapping[str, Any]]) -> dict[str, Metrics]:
    """For each of `CONDITIONS` the mean of every metric, and its population standard deviation as ``NAME_std``."""
    found: dict[str, Metrics] = {}
    for condition in (name for name in CONDITIONS if name in reports[0]):
        found[condition] = {}
        for name in reports[0][condition]:
            if name in COUNTS:
                continue
            values = np.array([report[condition][name] for report in reports])
            found[condition] |= {name: float(values.mean()), f"{name}_std": float(values.std())}
    return found


def report_table(report: Mapping[str, Any], title: str) -> Table:
    """Metrics by condition in percent, with the deviation over splits where there are several."""
    names = {"shuffled": "shuffled text", "best": "best step"}
    return metrics_table({names.get(name, name): report[name] for name in CONDITIONS if name in report}, title)
