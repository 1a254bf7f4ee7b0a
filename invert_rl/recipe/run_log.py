"""The log of a run: ``log.jsonl``, a progress bar, a short line per logging step."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data_prep.files import atomic_write


def forget_later_steps(log: Path, step: int) -> None:
    """Drop what a killed run logged after the checkpoint of ``step``: the resumed run makes those steps again.

    A last line that was cut off goes as well. A log that is not there stays so.
    """
    if not log.is_file():
        return
    kept = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry["step"] <= step:
            kept.append(line)
    with atomic_write(log) as out:
        out.writelines(f"{line}\n" for line in kept)


LOGS = ("log.jsonl", "rounds.jsonl")
"""Files of a run folder that grow by lines with a ``step``."""


class OnceLogged(TrainerCallback):
    """Puts numbers that belong to the whole run into its first record; a resumed run has them already.

    To stand before `RunLog` among the callbacks.
    """

    def __init__(self, numbers: Mapping[str, float]) -> None:
        self.numbers = dict(numbers)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step > 0:
            self.numbers.clear()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and state.global_step > 0:
            logs.update(self.numbers)
            self.numbers.clear()


class RunLog(TrainerCallback):
    """A progress bar on a terminal, one short line per logging step, and every number in ``log.jsonl``."""

    SHORT = ("reward", "kl", "entropy", "loss", "step_time", "mean_token_accuracy")

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.started = time.perf_counter()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.started = time.perf_counter()
            Path(str(args.output_dir)).mkdir(parents=True, exist_ok=True)
            for name in LOGS:
                forget_later_steps(Path(str(args.output_dir)) / name, state.global_step)
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step", disable=None)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        with (Path(str(args.output_dir)) / "log.jsonl").open("a", encoding="utf-8") as out:
            named = {name.replace("eval_", "eval/", 1): value for name, value in logs.items()}  # as trackers show it
            out.write(json.dumps({"step": state.global_step, **named}, default=float) + "\n")
        if "train_runtime" in logs:
            return
        tasks = sorted({name.split("/")[0] for name in logs if name.endswith("/valid_answers")})
        validated = [name for name in logs if name.startswith("eval_") and name != "eval_n"]
        shown = [*self.SHORT, *(f"{task}/reward" for task in tasks), *validated]
        parts = [f"{name} {float(logs[name]):.3g}" for name in shown if logs.get(name) is not None]
        elapsed = time.perf_counter() - self.started
        tqdm.write(
            f"step {state.global_step}/{state.max_steps}  {elapsed:.0f} s  " + "  ".join(parts),
            file=sys.stdout,
        )
        sys.stdout.flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
