"""InternVid-VTime in the two forms it is used in: VTimeLLM's conversations and VideoMind's lines."""

from __future__ import annotations

import argparse

from data_prep.convert import videomind, vtimellm
from data_prep.convert.grounding import RowBuilder
from data_prep.files import iter_records

NAME = "internvid-vtime"
HELP = "InternVid-VTime, VTimeLLM's conversations (JSON) or VideoMind's lines (JSONL)"
PATTERN = "{video}.mp4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """As VideoMind's lines: durations, where a line has none."""
    videomind.add_arguments(parser)


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """The rows that the parsed command line asks for: of conversations with a clip, of lines of files that are cut."""
    _, _, first = next(iter(iter_records(args.annotations)))
    if "conversations" in first:
        vtimellm.convert(args, builder)
    else:
        videomind.convert(args, builder)
