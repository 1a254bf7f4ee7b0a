"""The fields by which a run's config says how it is evaluated while it trains."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

from data_prep.errors import DataError
from invert_rl.evaluation.protocols.named import named_protocol
from invert_rl.tasks import DEFAULT_TASK, Preset
from invert_rl.tasks.base import SPANS
from invert_rl.tasks.refuse import Refusal
from invert_rl.tasks.tvg import Grounding

DEFAULT_METRIC = "mIoU"
"""What early stopping looks at unless ``keep_best`` or ``metric_for_best_model`` says."""


@dataclass
class ValidationFields:
    """Mixed into the configs of the trainers; ``eval_strategy`` and ``eval_steps`` are transformers' own."""

    eval_batch_size: int = field(
        default=8,
        metadata={"help": "Prompts generated at a time on each GPU when evaluating; fewer where it is full."},
    )
    validation_data: str | None = field(
        default=None,
        metadata={"help": "JSONL rows for --eval_strategy steps; default: eval_data, which is then no test set."},
    )
    validation_samples: int | None = field(
        default=64, metadata={"help": "Rows validated each time, chosen by seed; null: all."}
    )
    keep_best: str | None = field(
        default=None, metadata={"help": "Metric whose best model is kept in RUN/best, such as eval/mIoU."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many validations without a better value of that metric."}
    )
    early_stopping_threshold: float = field(default=0.0, metadata={"help": "How much better counts as better."})

    protocol: str | None = field(
        default=None,
        metadata={
            "help": "How before, after and validation count: a name of invert-rl evaluate --protocol, such as "
            "charades-sta/published. Prompt and frames stay the run's own."
        },
    )

    def scored(self, preset: Preset) -> Preset:
        """``preset``, its grounding tasks counted as ``protocol`` says; raises `DataError` where it does not fit."""
        if self.protocol is None:
            return preset
        published = named_protocol(self.protocol)
        if published.windows == "all" and preset.tasks[DEFAULT_TASK].kind != SPANS:
            raise DataError(
                f"protocol {self.protocol} asks for every moment: the prompt must, too (prompt: spans_json)"
            )
        refusals = [task for task in preset.tasks.values() if isinstance(task, Refusal)]
        if published.rules.measure == "refusal" and not refusals:
            raise DataError(f"protocol {self.protocol} is about the task refuse, which --tasks leaves out")
        tasks = {
            name: replace(task, rules=published.rules, windows=published.windows)
            if isinstance(task, Grounding)
            else task
            for name, task in preset.tasks.items()
        }
        return replace(preset, tasks=tasks)

    def check_validation(self: Any) -> None:
        """Raise `ValueError` for settings without effect, and name the metric as transformers' callbacks do."""
        for name in ("eval_batch_size", "validation_samples", "early_stopping_patience"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a positive whole number, found {value!r}")
        strategy = str(getattr(self.eval_strategy, "value", self.eval_strategy)).lower()
        for name in ("keep_best", "early_stopping_patience", "validation_data"):
            if getattr(self, name) is not None and strategy in ("no", "false"):
                raise ValueError(f"{name} has no effect without --eval_strategy steps")
        if self.keep_best is not None and not self.keep_best.startswith("eval/"):
            raise ValueError(f"keep_best: metrics are named as in the log, eval/mIoU …; found {self.keep_best!r}")
        if self.metric_for_best_model is not None:
            self.metric_for_best_model = self.metric_for_best_model.removeprefix("eval/")
        elif self.keep_best is not None:
            self.metric_for_best_model = self.keep_best.removeprefix("eval/")
        elif self.early_stopping_patience is not None:
            self.metric_for_best_model = DEFAULT_METRIC
        if self.early_stopping_patience is not None:
            self.restore_callback_states_from_checkpoint = True

    def stopping_callbacks(self) -> list[TrainerCallback]:
        """transformers' early stopping, if it is asked for."""
        if self.early_stopping_patience is None:
            return []
        return [EarlyStoppingCallback(self.early_stopping_patience, self.early_stopping_threshold)]
