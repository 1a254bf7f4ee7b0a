"""Prompt presets: the wordings in which the field asks the same question, as named files in ``prompts/``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from string import Formatter

from data_prep.errors import DataError
from data_prep.files import read_json
from invert_rl.tasks import TASKS, Task

FOLDER = Path(__file__).parent / "prompts"
DEFAULT = "think"
FIELDS = {"query", "masked_query"}
"""What a prompt may hold in braces; both are lower case and without a final period."""


@dataclass(frozen=True)
class Preset:
    """The tasks with one convention's prompts."""

    name: str
    tasks: dict[str, Task]

    @property
    def sha256(self) -> str:
        """Hash of all its prompts, 16 hexadecimal digits."""
        prompts = {name: task.prompt for name, task in self.tasks.items()}
        return sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest()[:16]


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_preset(name: str, wanted: Sequence[str] = ()) -> Preset:
    """The preset of that name, or of a JSON file of one's own: an object with a prompt for each task it knows.

    Raises `DataError` for an unknown name, a task or field of the prompt that does not exist, and a task of
    ``wanted`` that the preset has no prompt for.
    """
    own = name.endswith(".json")
    path = Path(name) if own else FOLDER / f"{name}.json"
    if not own and name not in preset_names():
        raise DataError(f"no prompt preset {name!r}; there are {', '.join(preset_names())}, or give a .json file")
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object with a prompt for each task, found {type(content).__name__}")
    tasks = {}
    for task, prompt in content.items():
        if task == "about":
            continue
        if task not in TASKS or not isinstance(prompt, str) or not prompt.strip():
            raise DataError(f"{path}: {task!r} must be one of {', '.join(TASKS)} with a prompt as text")
        try:
            fields = {field for _, field, _, _ in Formatter().parse(prompt) if field is not None}
        except ValueError as error:
            raise DataError(f"{path}: the prompt of {task!r} cannot be filled ({error})") from error
        if fields - FIELDS:
            raise DataError(
                f"{path}: the prompt of {task!r} holds {{{min(fields - FIELDS)}}}; only {{query}} and {{masked_query}} "
                "are filled, other braces are written twice"
            )
        tasks[task] = replace(TASKS[task], prompt=prompt)
    missing = [task for task in wanted if task not in tasks]
    if missing:
        raise DataError(f"prompt preset {name!r} has no prompt for {', '.join(missing)}; it has {', '.join(tasks)}")
    return Preset(path.stem, tasks)
