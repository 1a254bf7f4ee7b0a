"""The commands, options and keys printed in docs/evaluation.md exist."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from invert_rl.cli import COMMANDS as MODULES
from invert_rl.tasks import preset_names

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(?:invert-rl|accelerate launch -m invert_rl.cli) (.*)$", TEXT, flags=re.MULTILINE)


def parser_of(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    importlib.import_module(MODULES[name][0]).add_arguments(parser)
    return parser


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    name, *words = shlex.split(line)
    parser_of(name).parse_args(words)


def test_options_of_the_tables_exist_and_are_all_there() -> None:
    cells = re.findall(r"^\| (`--.*?) \|", TEXT, flags=re.MULTILINE)
    named = {option for cell in cells for option in re.findall(r"--[a-z-]+", cell)}
    known = {option for name in ("evaluate", "report") for option in parser_of(name)._option_string_actions}
    assert named <= known
    in_the_text = {"-h", "--help", "--model", "--predictions"}
    assert known - named == in_the_text


def test_presets_are_named() -> None:
    row = next(line for line in TEXT.splitlines() if line.startswith("| `--prompt"))
    assert set(preset_names()) == set(re.findall(r"`(\w+)`", row))
