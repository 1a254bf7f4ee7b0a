"""The evaluation that a training run makes of itself before and after: same rows, same settings, both kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data_prep.errors import DataError
from data_prep.files import read_jsonl, write_records
from data_prep.rows import Row
from invert_rl.evaluation.jobs import jobs_of, key_of
from invert_rl.evaluation.predictions import Prediction, read_predictions
from invert_rl.evaluation.runs.greedy import answer_rows
from invert_rl.evaluation.scoring import metrics_of
from invert_rl.tasks import TASKS, Preset, Task

if TYPE_CHECKING:
    from invert_rl.grpo.trainer import InvertGRPOTrainer

logger = logging.getLogger(__name__)


def adopt_samples(source: str, output_dir: str, rows: Sequence[Row], tasks: Mapping[str, Task] = TASKS) -> None:
    """Copy another run's ``samples_before.jsonl`` into a run folder, for `evaluate_once` to reuse.

    Raises `DataError` where the file is not there or does not answer TVG for exactly ``rows``.
    """
    path = Path(source)
    records = [record for _, record in read_jsonl(path)]
    forward = next(task for task in tasks.values() if task.forward)
    asked = [row.id for row in forward.rows(rows)]
    answered = [record.get("id") for record in records if record.get("task") == forward.name]
    if sorted(map(str, answered)) != sorted(asked):
        raise DataError(
            f"{path}: answers {len(answered)} rows, and not exactly the {len(asked)} test rows of this run; leave "
            "--before_samples out"
        )
    if PartialState().is_main_process:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        write_records(Path(output_dir) / "samples_before.jsonl", records)
    PartialState().wait_for_everyone()


def evaluate_once(
    name: str,
    trainer: InvertGRPOTrainer,
    rows: Sequence[Row],
    preset: Preset,
    options: Mapping[str, Any],
    reuse: bool = False,
) -> dict[str, float]:
    """Greedy answers of the trainer's model to the tasks of ``preset``; metrics in percent, as `metrics_of` gives them.

    Writes ``samples_<name>.jsonl`` into the run folder and shards the rows over ranks. ``reuse``: take the samples
    that are there already, as a resumed run does with those of its start model. Empty without rows. A model that FSDP
    or DeepSpeed is to shard is there as a whole on no rank before training begins: what is returned is then filled in
    when it does.
    """
    if not rows:
        return {}
    path = Path(str(trainer.args.output_dir)) / f"samples_{name}.jsonl"
    known = _known_answers(path, rows, preset) if reuse and path.is_file() else None
    if known is not None:
        return metrics_of(known, rows, tasks=preset.tasks)

    def evaluate() -> dict[str, float]:
        predictions = answer_rows(trainer, rows, preset, options, name)
        if trainer.accelerator.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_records(path, [prediction.record() for prediction in predictions])
        return metrics_of(predictions, rows, tasks=preset.tasks)

    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if sharded and trainer.model_wrapped is trainer.model and not isinstance(trainer.model, FSDPModule):
        metrics: dict[str, float] = {}
        trainer.add_callback(WhenSharded(lambda: metrics.update(evaluate())))
        return metrics
    return evaluate()


def _known_answers(path: Path, rows: Sequence[Row], preset: Preset) -> list[Prediction] | None:
    """The answers of a samples file, or None, with a warning, where it does not answer all that would be asked."""
    try:
        answers = read_predictions(path, rows, tasks=preset.tasks)
    except DataError as error:
        logger.warning("%s; the answers are made again", error)
        return None
    asked = {key_of(job) for job in jobs_of(list(preset.tasks.values()), rows)}
    missing = asked - {(answer.task, answer.id) for answer in answers}
    if missing:
        logger.warning("%s: %d of %d answers are missing; all are made again", path, len(missing), len(asked))
        return None
    return answers


def evaluate_last(
    trainer: InvertGRPOTrainer, rows: Sequence[Row], preset: Preset, options: Mapping[str, Any]
) -> tuple[dict[str, float], str | None]:
    """`evaluate_once` after training, and why it failed if it did: the run's summary is to be written all the same."""
    try:
        return evaluate_once("after", trainer, rows, preset, options), None
    except (RuntimeError, OSError, ValueError) as error:  # out of memory, a full disk, a reward of the user's
        logger.exception("the evaluation after training failed")
        return {}, f"{type(error).__name__}: {error}"


class WhenSharded(TrainerCallback):
    """Evaluates once when training begins: the model is sharded then, and not trained yet."""

    def __init__(self, evaluate: Callable[[], None]) -> None:
        self.evaluate = evaluate

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate, unless the weights are those of a checkpoint."""
        if state.global_step:
            logger.warning("samples_before.jsonl is missing, and the start model is not loaded: no metrics before")
            return
        self.evaluate()
