"""The evaluation that a training run makes of itself before and after: same rows, same settings, both kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from accelerate.utils import gather_object

from data_prep.errors import DataError
from data_prep.files import read_jsonl
from data_prep.rows import Row
from invert_rl.evaluation.predict import evaluation_mode, predict
from invert_rl.evaluation.predictions import Prediction
from invert_rl.evaluation.scoring import metrics_of
from invert_rl.runs import write_records
from invert_rl.tasks import TASKS, Preset, Task

if TYPE_CHECKING:
    from invert_rl.grpo.trainer import InvertGRPOTrainer


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
    that are there already, as a resumed run does with those of its start model. Empty without rows, and for FSDP or
    DeepSpeed, whose sharded models are evaluated afterwards with ``invert-rl evaluate``.
    """
    if not rows or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return {}
    path = Path(str(trainer.args.output_dir)) / f"samples_{name}.jsonl"
    if reuse and path.is_file():
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return metrics_of([Prediction(**record) for record in records], rows, tasks=preset.tasks)
    state = trainer.accelerator
    model = state.unwrap_model(trainer.model)
    predictions: list[Prediction] = []
    for task in preset.tasks.values():
        used = task.rows(rows)[state.process_index :: state.num_processes]
        if used:
            with evaluation_mode(model), state.autocast():
                predictions += predict(
                    model,
                    trainer.processing_class,
                    used,
                    task,
                    trainer.store,
                    options,
                    batch_size=trainer.args.eval_batch_size,
                    max_new_tokens=trainer.args.max_completion_length,
                    progress=None if state.is_main_process else False,
                    decode_workers=trainer.args.dataloader_num_workers,
                    chat_template_kwargs=preset.chat_template_kwargs,
                )
    predictions = gather_object(predictions)
    if state.is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_records(path, [prediction.record() for prediction in predictions])
    return metrics_of(predictions, rows, tasks=preset.tasks)
