"""``invert-rl completion``: a script for bash, zsh or tcsh."""

from __future__ import annotations

import argparse
import sys

from data_prep.errors import DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl completion``."""
    parser.description = 'Print a completion script, for ~/.bashrc: eval "$(invert-rl completion bash)"'
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def run(args: argparse.Namespace) -> int:
    """Print the script; 0 on success. Raises `DataError` without shtab."""
    from invert_rl.cli import COMMANDS, build_parser

    try:
        import shtab
    except ImportError as error:
        raise DataError("completion needs shtab: pip install shtab") from error
    sys.stdout.write(shtab.complete(build_parser(list(COMMANDS)), shell=args.shell) + "\n")
    return 0
