"""Validation while a run trains: greedy answers to a fixed part of the rows, in the log, and the best model kept."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import Trainer, TrainerControl

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_object, write_records
from data_prep.rows import Row, read_rows
from data_prep.verbs import annotate_missing
from invert_rl.evaluation.runs.greedy import answer_rows
from invert_rl.evaluation.scoring import metrics_of
from invert_rl.tasks import Preset
from rewards.pipelines import VerbPipeline

logger = logging.getLogger(__name__)

BEST = "best"
"""Folder of the best model in a run folder."""
FOUND = "validation.json"
"""In that folder: which metric, its value, and at which step."""


def fixed_part(rows: Sequence[Row], count: int | None, seed: int) -> list[Row]:
    """``count`` rows chosen by ``seed`` alone, in the order of the file; all if there are no more."""
    if count is None or count >= len(rows):
        return list(rows)
    chosen = np.random.default_rng([seed, len(rows)]).permutation(len(rows))[:count]
    return [rows[number] for number in sorted(chosen)]


def validation_of(
    args: Any, test_rows: Sequence[Row], preset: Preset, options: Mapping[str, Any], pipeline: VerbPipeline | None
) -> Validation | None:
    """What a run's options ask to validate on, its test rows unless ``validation_data`` names others; None if nothing.

    Raises `DataError` for rows or metrics that are not there.
    """
    if args.eval_strategy == "no":
        return None
    rows = test_rows
    if args.validation_data is not None:
        rows = read_rows(args.validation_data)
        rows = annotate_missing(rows, pipeline) if pipeline is not None else rows
    return Validation(fixed_part(rows, args.validation_samples, args.seed), preset, options, args.keep_best)


class Validation:
    """Metrics of a trainer's model on the same rows each time, as `metrics_of` gives them.

    Args:
        rows: the rows; all tasks of ``preset`` are asked of them.
        preset: the tasks as they are worded.
        options: of the rewards that score answers.
        keep_best: name of the metric whose best model is kept, such as ``eval/mIoU``; raises `DataError` for one that
            these tasks do not have.
    """

    def __init__(
        self, rows: Sequence[Row], preset: Preset, options: Mapping[str, Any], keep_best: str | None = None
    ) -> None:
        if not rows:
            raise DataError("validation: there are no rows; give --validation_data or --eval_data")
        self.rows, self.preset, self.options = rows, preset, options
        names: dict[str, None] = {}
        for task in preset.tasks.values():
            used = task.rows(rows)
            names |= dict.fromkeys(task.metrics([None] * len(used), used, False) if used else ())
        names.pop("n", None)  # of rows, the same at any step
        if keep_best is not None and keep_best.removeprefix("eval/") not in names:
            known = ", ".join(f"eval/{name}" for name in names)
            raise DataError(f"{keep_best!r} is no metric of these tasks; choose from {known}")

    def __call__(self, trainer: Trainer) -> dict[str, float]:
        """Answer the rows, write the answers into the run folder, and return the metrics; on all ranks."""
        predictions = answer_rows(trainer, self.rows, self.preset, self.options, "validate")
        if trainer.accelerator.is_main_process:
            folder = Path(str(trainer.args.output_dir)) / "validation"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"samples_{trainer.state.global_step:06d}.jsonl"
            write_records(path, [prediction.record() for prediction in predictions])
        return metrics_of(predictions, self.rows, tasks=self.preset.tasks)


class Validating(Trainer):
    """A `Trainer` whose ``evaluate`` is a `Validation`; put it in front of the trainer to be extended.

    ``eval_strategy``, ``eval_steps``, ``eval_delay`` and ``eval_on_start`` say when. The metrics are logged as
    ``eval/mIoU`` and so on; transformers' callbacks get them as ``eval_mIoU``, the name that they know.
    """

    validation: Validation | None = None
    control: TrainerControl

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; raises `DataError` where validation is asked for without rows."""
        if self.args.eval_strategy != "no" and self.validation is None:
            raise DataError("eval_strategy: there are no rows to validate on; set the trainer's ``validation``")
        return super().train(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate now; returns the metrics under the names that transformers knows."""
        assert self.validation is not None
        started = time.perf_counter()
        metrics = self.validation(self)
        seconds = time.perf_counter() - started
        named = {f"eval_{name}": float(value) for name, value in metrics.items()}
        logs = {**named, "eval_seconds": seconds}
        entry = {name.replace("eval_", "eval/", 1): value for name, value in logs.items()}
        self.state.log_history.append({**entry, "epoch": self.state.epoch or 0.0, "step": self.state.global_step})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, dict(logs))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        self._keep_best(metrics)
        return named

    def _keep_best(self, metrics: Mapping[str, float]) -> None:
        """Save the model as ``best/`` if its metric is higher than that of the one that is there."""
        name = getattr(self.args, "keep_best", None)
        if name is None:
            return
        value = float(metrics[name.removeprefix("eval/")])
        folder = Path(str(self.args.output_dir)) / BEST
        if (folder / FOUND).is_file() and read_object(folder / FOUND).get("value", -math.inf) >= value:
            return
        self.accelerator.wait_for_everyone()
        draft = folder.with_name(f".{BEST}.saving")
        if self.accelerator.is_main_process:
            shutil.rmtree(draft, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.save_model(str(draft))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            with atomic_write(draft / FOUND) as out:
                json.dump({"metric": name, "value": value, "step": self.state.global_step}, out)
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(draft, folder)
        self.accelerator.wait_for_everyone()
