"""The evaluation that a training run makes of itself before and after: same rows, same settings, both kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate import PartialState
from accelerate.utils import gather_object

from data_prep.errors import DataError
from data_prep.files import read_jsonl
from data_prep.rows import Row
from invert_rl.evaluation.predict import evaluation_mode, predict
from invert_rl.evaluation.predictions import Prediction
from invert_rl.evaluation.scoring import metrics_of, rows_of_task
from invert_rl.runs import write_records
from invert_rl.tasks import TASKS
from rewards.pipelines import VerbPipeline

if TYPE_CHECKING:
    from invert_rl.grpo.trainer import InvertGRPOTrainer


def adopt_samples(source: str, output_dir: str, rows: Sequence[Row]) -> None:
    """Copy another run's ``samples_before.jsonl`` into a run folder, for `evaluate_once` to reuse.

    Raises `DataError` where the file is not there or does not answer TVG for exactly ``rows``.
    """
    path = Path(source)
    records = [record for _, record in read_jsonl(path)]
    answered = [record.get("id") for record in records if record.get("task") == "tvg"]
    if sorted(map(str, answered)) != sorted(row.id for row in rows):
        raise DataError(
            f"{path}: answers {len(answered)} rows, and not exactly the {len(rows)} test rows of this run; leave "
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
    pipeline: VerbPipeline | None,
    reuse: bool = False,
) -> dict[str, float]:
    """Greedy answers of the trainer's model to all four tasks; metrics in percent, as `metrics_of` gives them.

    Writes ``samples_<name>.jsonl`` into the run folder and shards the rows over ranks. ``reuse``: take the samples
    that are there already, as a resumed run does with those of its start model. Empty without rows, and for FSDP or
    DeepSpeed, whose sharded models are evaluated afterwards with ``invert-rl evaluate``.
    """
    if not rows or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return {}
    path = Path(str(trainer.args.output_dir)) / f"samples_{name}.jsonl"
    if reuse and path.is_file():
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return metrics_of([Prediction(**record) for record in records], rows)
    state = trainer.accelerator
    model = state.unwrap_model(trainer.model)
    mine = list(rows)[state.process_index :: state.num_processes]
    predictions: list[Prediction] = []
    for task in TASKS.values():
        used = rows_of_task(task.name, mine)
        if used and (pipeline is not None or not task.needs_verbs):
            with evaluation_mode(model), state.autocast():
                predictions += predict(
                    model,
                    trainer.processing_class,
                    used,
                    task.name,
                    trainer.store,
                    pipeline,
                    batch_size=trainer.args.eval_batch_size,
                    max_new_tokens=trainer.args.max_completion_length,
                    progress=None if state.is_main_process else False,
                    decode_workers=trainer.args.dataloader_num_workers,
                )
    predictions = gather_object(predictions)
    if state.is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_records(path, [prediction.record() for prediction in predictions])
    return metrics_of(predictions, rows)
