"""Run by torchrun: short runs on several CPU ranks; each leaves ``<job><rank>.pt`` with what it ended with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # torchrun runs this file, not the package
from tests.invert_rl.actionvlm.small import experiment, weights


def main(folder: Path, jobs: dict[str, dict]) -> None:
    for name, changes in jobs.items():
        run = experiment(folder / name, **changes)
        trainer = run.trainer()
        places = run.batches().schedule.places(0, trainer.accelerator.process_index)
        trainer.train()
        torch.save(
            {"weights": weights(run), "places": places}, folder / f"{name}{trainer.accelerator.process_index}.pt"
        )
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
