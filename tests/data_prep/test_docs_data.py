"""The commands printed in docs/data.md are commands that exist."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from data_prep import check_videos
from data_prep.convert import command

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^invert-rl ((?:convert|check-videos) .*)$", TEXT, flags=re.MULTILINE)


def test_the_page_shows_every_set() -> None:
    shown = {line.split()[1] for line in COMMANDS if line.startswith("convert")}
    detection = {"thumos14", "activitynet-1.3", "epic-kitchens-100"}
    assert shown == {*command.GROUNDING, "clips", *detection}


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    name, *words = shlex.split(line.replace("[", "").replace("]", "").replace("--workers N", "--workers 2"))
    parser = argparse.ArgumentParser()
    (command if name == "convert" else check_videos).add_arguments(parser)
    parser.parse_args(words)


def test_options_of_the_table_exist() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    sets = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    known = {option for one in sets.choices.values() for option in one._option_string_actions}
    table = re.findall(r"^\| (`--.*?) \|", TEXT, flags=re.MULTILINE)
    named = {option for cell in table for option in re.findall(r"--[a-z-]+", cell)}
    assert named and named <= known
