"""What a checkpoint of a GRPO run holds beside TRL's, and where a run can go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.errors import DataError
from data_prep.files import read_json, read_object
from invert_rl.grpo.reference import load_reference, save_reference

if TYPE_CHECKING:
    from invert_rl.grpo.trainer import InvertGRPOTrainer

REFERENCE = "reference.safetensors"
"""Weights of a reference model that follows the policy (``sync_ref_model``)."""
SOLVE_RATES = "solve_rates.json"
"""What ``online_difficulty`` knows of the rows."""


def save_round_state(trainer: InvertGRPOTrainer, checkpoint: Path) -> None:
    """Write into a checkpoint folder that is being made what changes beside the weights; a collective call."""
    main = trainer.accelerator.is_main_process
    if trainer.args.sync_ref_model and not trainer.is_deepspeed_enabled:
        save_reference(trainer.accelerator.unwrap_model(trainer.ref_model), checkpoint / REFERENCE, main)
    if trainer.args.online_difficulty and main:
        (checkpoint / SOLVE_RATES).write_text(json.dumps(trainer.solve_rates.notes))
    if trainer.args.rounds_ahead:
        trainer.save_rounds_ahead(checkpoint)


def load_round_state(trainer: InvertGRPOTrainer, checkpoint: Path) -> None:
    """Take it up again; raises `DataError` or `CheckpointError` where the run could not go on exactly."""
    if trainer.args.sync_ref_model:
        if not (checkpoint / REFERENCE).is_file():
            raise DataError(
                f"{checkpoint}: holds no {REFERENCE}: the run would start again from the first reference model "
                "(sync_ref_model is not resumed under DeepSpeed)"
            )
        load_reference(trainer.accelerator.unwrap_model(trainer.ref_model), checkpoint / REFERENCE)
    if trainer.args.online_difficulty:
        if not (checkpoint / SOLVE_RATES).is_file():
            raise DataError(f"{checkpoint}: holds no {SOLVE_RATES}: the run before had no online_difficulty")
        trainer.solve_rates.notes.clear()
        trainer.solve_rates.add(_solve_rates(checkpoint / SOLVE_RATES))
    if trainer.args.rounds_ahead:
        trainer.load_rounds_ahead(checkpoint)


def check_whole_round(checkpoint: Path, steps_per_round: int, max_steps: int) -> None:
    """Refuse a checkpoint in the middle of a generation round, whose completions are gone; raises `DataError`."""
    path = checkpoint / "trainer_state.json"
    if not path.is_file():
        return
    step = read_object(path)["global_step"]
    if step % steps_per_round and step != max_steps:
        raise DataError(
            f"{checkpoint}: step {step} lies in the middle of a generation round of {steps_per_round} optimizer steps, "
            "whose completions are gone; resume from a checkpoint whose step is a multiple of that"
        )


def _solve_rates(path: Path) -> list[tuple[int, str, int, float]]:
    try:
        return [(int(at), str(task), int(row), float(rate)) for at, task, row, rate in read_json(path)]
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: holds no solve rates ({error})") from error
