"""ReXTime: questions with their window, in QVHighlights' layout."""

from __future__ import annotations

import argparse

from data_prep.convert import qvhighlights
from data_prep.convert.grounding import RowBuilder

NAME = "rextime"
HELP = "ReXTime (JSONL)"
PATTERN = "{video}.mp4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments beyond those all grounding sets have: the file holds the durations."""


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """The rows that the parsed command line asks for, with the right option's letter in ``meta.ans``.

    Videos are ActivityNet's (``v_…``) and QVHighlights' cuts, whose offsets stand in the name: times are the cut's.
    """
    qvhighlights.read(builder, ("ans",))
