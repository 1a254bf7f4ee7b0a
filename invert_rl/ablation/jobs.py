"""One run of a recipe: its folder, its fields and the config file that they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_prep.files import atomic_write

SFT = "sft_invert.py"
"""The recipe of start models."""
CONFIG = "config.yaml"
"""The fields of a run, in its folder."""
SUMMARY = "summary.json"
"""Written last by every recipe."""
LOG = "log.jsonl"
IDENTITY = "ablation.json"
"""What a run folder was made with; a run with other settings is never mixed in."""


@dataclass(frozen=True)
class Job:
    """One recipe run."""

    name: str
    """Configuration, or name of the start model."""
    seed: int
    folder: Path
    recipe: str
    settings: dict[str, Any]
    """All fields that the recipe is given, but the folder."""
    identity: dict[str, Any]
    """What must be equal for a finished run to be taken as it is."""
    needs: Path | None = None
    """Folder of the job whose model this one starts from."""
    before: str | None = None
    """Jobs with the same value share their answers before training."""
    world: int | None = None
    """Number of the generated world, where an ablation names several."""

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return (self.folder / SUMMARY).is_file()

    @property
    def label(self) -> str:
        """How the job is called on the console."""
        if self.recipe == SFT:
            return f"start model {self.name}"
        world = "" if self.world is None else f", world {self.world}"
        return f"{self.name}{world}, seed {self.seed}"


def write_config(job: Job, folder: Path) -> Path:
    """Write the job's fields as the YAML that its recipe is run with; returns its path.

    A file of its own, as a recipe without ``--config`` takes the toy world's settings for all that it is not given.
    """
    path = folder / CONFIG
    with atomic_write(path) as out:
        yaml.safe_dump(job.settings, out, sort_keys=False)
    return path
