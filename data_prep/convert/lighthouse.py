"""lighthouse's JSON lines of TACoS, Charades-STA, ActivityNet, CASTELLA, Clotho-Moment, UnAV-100 and TUT2017."""

from __future__ import annotations

import argparse

from data_prep.convert import qvhighlights
from data_prep.convert.grounding import RowBuilder

NAME = "lighthouse"
HELP = "lighthouse's files in QVHighlights' layout (JSONL)"
PATTERN = "{video}.mp4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments beyond those all grounding sets have: the file holds the durations."""


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """The rows that the parsed command line asks for; the highlight sets (no windows) are rejected line by line."""
    qvhighlights.read(builder)
