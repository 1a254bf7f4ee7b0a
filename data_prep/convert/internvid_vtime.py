"""InternVid-VTime in the two forms it is used in: VTimeLLM's conversations and VideoMind's lines."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from data_prep.convert import videomind, vtimellm
from data_prep.convert.grounding import VideoNames
from data_prep.convert.ledger import Ledger
from data_prep.files import iter_records
from data_prep.rows import Row

NAME = "internvid-vtime"
HELP = "InternVid-VTime, VTimeLLM's conversations (JSON) or VideoMind's lines (JSONL)"
PATTERN = "{video}.mp4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """As VideoMind's lines: durations, where a line has none."""
    videomind.add_arguments(parser)


def convert(args: argparse.Namespace, ledger: Ledger, video_name: VideoNames) -> Iterable[Row]:
    """The rows that the parsed command line asks for: of conversations with a clip, of lines of files that are cut."""
    _, _, first = next(iter(iter_records(args.annotations)))
    if "conversations" in first:
        return vtimellm.read(args.annotations, args.split, ledger, video_name, NAME)
    return videomind.read(args.annotations, args.durations, args.split, ledger, video_name, NAME)
