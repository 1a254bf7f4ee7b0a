"""What the tests of data_prep share: real annotation files where stored, `invert-rl convert` in-process."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.convert import command

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


@pytest.fixture
def real() -> Callable[[str], Path]:
    """The path of a real annotation file; the test is skipped where it is not stored."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"real data {name} is not stored beside the repository")
        return path

    return find


class Converted:
    """What a conversion left: exit code, the summary, the rejected records, the output's path."""

    def __init__(self, code: int, output: Path) -> None:
        self.code = code
        self.output = output
        self.summary = self._json(output.with_suffix(".summary.json"))
        rejected = output.with_suffix(".rejected.jsonl")
        lines = rejected.read_text(encoding="utf-8").splitlines() if rejected.exists() else []
        self.rejected = [json.loads(line) for line in lines]

    def count(self, where: str, kind: str) -> int:
        """How often ``kind`` is counted among the summary's ``repaired`` or ``notes``."""
        return self.summary[where].get(kind, {"count": 0})["count"]

    @property
    def rows(self) -> list[dict]:
        """The output as JSON objects."""
        return [json.loads(line) for line in self.output.read_text(encoding="utf-8").splitlines()]

    @property
    def database(self) -> dict:
        """The detection output's videos."""
        return self._json(self.output)["database"]

    def _json(self, path: Path) -> dict:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


@pytest.fixture
def convert(tmp_path: Path) -> Callable[..., Converted]:
    """``convert("charades-sta", annotations=path, split="train", …)`` runs the command line of that set."""

    def run(dataset: str, *flags: str, name: str = "out.jsonl", **options: object) -> Converted:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        output = tmp_path / "converted" / name
        words = [dataset, "--output", str(output), *flags]
        for option, value in options.items():
            words += [f"--{option.replace('_', '-')}", str(value)]
        return Converted(command.run(parser.parse_args(words)), output)

    return run
