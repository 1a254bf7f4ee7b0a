"""How a run of GRPO or supervised fine-tuning ends: its summary, its table, its upload."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import Trainer

from data_prep.errors import DataError
from invert_rl.account import describe_kept
from invert_rl.hub import Push
from invert_rl.recipe.console import console
from invert_rl.recipe.summary import before_after_table, write_summary
from invert_rl.video.quarantine import Quarantine


@dataclass
class Ending:
    """What a finished training run found.

    Args:
        before, after: metrics of the test rows, empty where there are none.
        failed: why the evaluation after training failed, if it did.
        blind: metrics that can be had without looking, shown beside.
        controls: metrics of each control, by its name.
        push: the upload that was asked for.
    """

    before: Mapping[str, float]
    after: Mapping[str, float]
    failed: str | None = None
    blind: Mapping[str, float] = field(default_factory=dict)
    controls: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    push: Push | None = None

    def tell(
        self,
        trainer: Trainer,
        settings: Mapping[str, Any],
        quarantine: Quarantine,
        about: Mapping[str, Any],
        started: float,
        test_rows: int,
    ) -> None:
        """Write ``summary.json``, ``quarantine.json`` and the cards, and tell on the console where everything is.

        Args:
            settings: of the run beside the trainer's own arguments.
            about: the run's account (`invert_rl.account.account_of`).
            started: `time.perf_counter` when the run began.

        Raises `DataError` on every process, after all is written, where the evaluation after training failed.
        """
        args = trainer.args
        folder = Path(str(args.output_dir))
        if trainer.accelerator.is_main_process:
            quarantine.write(folder / "quarantine.json")
            seconds = time.perf_counter() - started
            controls = {control: metrics for control, metrics in self.controls.items() if metrics}
            beside = {"controls": controls or None, "after_failed": self.failed}
            summary = write_summary(
                str(folder), self.before, self.after, seconds, {**settings, **args.to_dict()}, **beside
            )
            describe_kept(str(folder), about, self.before, self.after, self.blind)
            out = console()
            if self.before:
                title = f"test set, {test_rows} rows, percent"
                out.print(before_after_table(self.before, self.after, title, self.blind))
            for control, metrics in controls.items():
                if metrics is not self.blind:  # that is a column of the table
                    numbers = "  ".join(f"{key} {value:.1f}" for key, value in metrics.items())
                    out.print(f"control {control}: {numbers}")
            for video, reason in quarantine.videos.items():
                out.print(f"left out: {video}: {reason}", style="yellow")
            out.print(f"{seconds:.0f} s in all\nmodel        {folder / 'model'}\nsummary      {summary}")
            out.print(f"log          {folder / 'log.jsonl'}")
            if (folder / "completions").is_dir():
                out.print(f"completions  {folder / 'completions'}")
            if self.push is not None:
                out.print(f"uploaded to {self.push.upload(folder / 'model')}")
        if self.failed is not None:
            raise DataError(
                f"the evaluation after training failed ({self.failed}); the model is there: invert-rl evaluate --model "
                f"{folder / 'model'} --data {args.eval_data} …"
            )
