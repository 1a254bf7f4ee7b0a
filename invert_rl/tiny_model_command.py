"""``invert-rl tiny-model``: a checkpoint with random weights of any family, for tests and smoke runs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from data_prep.errors import DataError
from invert_rl.families import FAMILIES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Family, folder and seed."""
    parser.add_argument("output", metavar="OUT", help="folder to write; it may exist but not hold a checkpoint")
    parser.add_argument("--family", required=True, choices=list(FAMILIES), help="model family")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: 0)")
    parser.add_argument("--json", action="store_true", help="one JSON object for machines")


def run(arguments: argparse.Namespace) -> int:
    """Write the checkpoint; raises `DataError` if the folder holds one already or cannot be written."""
    from transformers.utils import logging

    from invert_rl.models.tiny import save_tiny_checkpoint

    folder = Path(arguments.output)
    if (folder / "config.json").exists():
        raise DataError(f"{folder}: holds a checkpoint already; name another folder")
    logging.disable_progress_bar()
    try:
        save_tiny_checkpoint(folder, arguments.family, arguments.seed)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error}") from error
    size = sum(file.stat().st_size for file in folder.iterdir())
    found = {"family": arguments.family, "seed": arguments.seed, "folder": str(folder), "bytes": size}
    if arguments.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stdout.write(f"{folder}: a tiny {arguments.family} with random weights, {size / 1e6:.1f} MB\n")
    return 0
