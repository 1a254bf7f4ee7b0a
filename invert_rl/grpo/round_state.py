"""What a checkpoint of a GRPO run holds beside TRL's: a reference model that changes; and where a run can go on."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_model, save_model
from trl import GRPOTrainer

from data_prep.errors import DataError

REFERENCE = "reference.safetensors"
"""Weights of a reference model that follows the policy (``sync_ref_model``)."""


def save_round_state(trainer: GRPOTrainer, checkpoint: Path) -> None:
    """Write the reference into a checkpoint folder that is being made, if it changes; the main process does."""
    if not trainer.accelerator.is_main_process:
        return
    if trainer.args.sync_ref_model and not _sharded(trainer):
        save_model(trainer.accelerator.unwrap_model(trainer.ref_model), str(checkpoint / REFERENCE))


def load_round_state(trainer: GRPOTrainer, checkpoint: Path) -> None:
    """Take the reference up again; raises `DataError` where the run could not go on exactly."""
    if trainer.args.sync_ref_model:
        if not (checkpoint / REFERENCE).is_file():
            raise DataError(
                f"{checkpoint}: holds no {REFERENCE}: the run would start again from the first reference model "
                "(sync_ref_model is not resumed under FSDP and DeepSpeed)"
            )
        load_model(trainer.accelerator.unwrap_model(trainer.ref_model), checkpoint / REFERENCE, strict=True)


def check_whole_round(checkpoint: Path, steps_per_round: int, max_steps: int) -> None:
    """Refuse a checkpoint in the middle of a generation round, whose completions are gone; raises `DataError`."""
    path = checkpoint / "trainer_state.json"
    if not path.is_file():
        return
    step = json.loads(path.read_text())["global_step"]
    if step % steps_per_round and step != max_steps:
        raise DataError(
            f"{checkpoint}: step {step} lies in the middle of a generation round of {steps_per_round} optimizer steps, "
            "whose completions are gone; resume from a checkpoint whose step is a multiple of that"
        )


def _sharded(trainer: GRPOTrainer) -> bool:
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)
