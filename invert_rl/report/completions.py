"""Completions that a run logged while it trained, with what each earned."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = "completions"
MOST_STEPS = 8
MOST_ROWS = 16
LONGEST = 1200
"""Characters of a prompt or completion that are shown."""
TEXTS = ("step", "prompt", "completion")


@dataclass(frozen=True)
class Completion:
    """One completion as the page shows it."""

    numbers: list[float | None]
    """By column; None where a reward is not the task's."""
    prompt: str
    completion: str


@dataclass(frozen=True)
class Step:
    """The completions of one logging step."""

    step: int
    count: int
    """How many were logged."""
    columns: list[str]
    mean: float | None
    """Mean over completions of the sum of their rewards."""
    rows: list[Completion]


def read_completions(folder: Path) -> list[Step]:
    """At most `MOST_STEPS` steps, evenly over the run, of each the first `MOST_ROWS` completions; empty without any."""
    paths = sorted((folder / FOLDER).glob("*.parquet"))
    if len(paths) > MOST_STEPS:
        last = len(paths) - 1
        paths = [paths[round(place * last / (MOST_STEPS - 1))] for place in range(MOST_STEPS)]
    return [step for path in paths if (step := _read(path)) is not None]


def _read(path: Path) -> Step | None:
    import pyarrow
    from pyarrow import parquet

    try:
        records: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException):
        return None  # cut off by a kill; what is missing shows in the steps
    if not records:
        return None
    columns = [
        name for name in records[0] if name not in TEXTS and any(_number(r.get(name)) is not None for r in records)
    ]
    rewards = [name for name in columns if name != "advantage"]
    sums = [sum(value for name in rewards if (value := _number(record.get(name))) is not None) for record in records]
    rows = [
        Completion(
            [_number(record.get(name)) for name in columns],
            _text(record.get("prompt")),
            _text(record.get("completion")),
        )
        for record in records[:MOST_ROWS]
    ]
    names = [name.removesuffix("_reward").replace("_", " ") for name in columns]
    return Step(int(records[0].get("step", 0)), len(records), names, sum(sums) / len(sums) if rewards else None, rows)


def _number(value: Any) -> float | None:
    real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if real else None


def _text(value: Any) -> str:
    """A text, or the texts of a chat's messages."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = json.loads(value) if value.startswith("[{") else value
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = "\n".join(_content(message.get("content")) for message in value if isinstance(message, Mapping))
    text = str(value or "").strip()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _content(content: Any) -> str:
    if isinstance(content, Sequence) and not isinstance(content, str):
        return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping)).strip()
    return str(content or "")
