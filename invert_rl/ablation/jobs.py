"""One run of a recipe: its folder, its fields and the command line that they make."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GRPO, SFT = "grpo_invert.py", "sft_invert.py"
SUMMARY = "summary.json"
"""Written last by every recipe."""
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

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return (self.folder / SUMMARY).is_file()

    @property
    def label(self) -> str:
        """How the job is called on the console."""
        return f"{self.name}, seed {self.seed}" if self.recipe == GRPO else f"start model {self.name}"


def arguments_of(job: Job) -> list[str]:
    """The command-line arguments of a job's recipe, without config file and without folder."""
    arguments: list[str] = []
    for name, value in job.settings.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        words = [str(item).lower() if isinstance(item, bool) else str(item) for item in values]
        arguments += [f"--{name}", *words]
    return arguments
