"""Short trainings for the tests; run by torchrun it trains, resumes, and writes the weights of each rank.

The argument is the output folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import set_seed

from invert_rl.wtal.build import batch_drawer, build_model, encode_semantics, load_data, load_descriptions
from invert_rl.wtal.config import WtalArguments
from invert_rl.wtal.trainer import WtalTrainer

SETTINGS: dict[str, Any] = {
    "rgb_width": 6,
    "flow_width": 4,
    "snippets": 16,
    "width": 8,
    "attention_width": 8,
    "text_heads": 2,
    "reconstruction_width": 8,
    "reconstruction_layers": 1,
    "descriptions": "planted",
    "per_device_train_batch_size": 4,
    "pairs": 1,
    "planted_train": 8,
    "planted_test": 4,
    "learning_rate": 1e-3,
    "max_steps": 6,
    "save_steps": 3,
    "logging_steps": 1,
    "disable_tqdm": True,
    "use_cpu": True,
    "seed": 7,
}


def train(output: Path, resume: str | None = None, **settings: Any) -> WtalTrainer:
    """Train with `SETTINGS` and ``settings``."""
    args = WtalArguments(output_dir=str(output), **{**SETTINGS, **settings})
    data = load_data(args)
    semantics = encode_semantics(args, data, load_descriptions(args, data))
    set_seed(args.seed)
    trainer = WtalTrainer(build_model(args, semantics), batch_drawer(args, data, semantics), args)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(trainer: WtalTrainer) -> dict[str, torch.Tensor]:
    """All weights of a trainer's model."""
    return {name: value.clone() for name, value in trainer.accelerator.unwrap_model(trainer.model).state_dict().items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, start in (("straight", None), ("resumed", str(folder / "straight" / "checkpoint-3"))):
        done = train(folder / name, start, per_device_train_batch_size=2)
        torch.save(weights(done), folder / name / f"weights{PartialState().process_index}.pt")
    PartialState().destroy_process_group()
