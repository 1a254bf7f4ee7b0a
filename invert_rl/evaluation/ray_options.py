"""``--engine`` and ``--workers`` of the commands that ask a model; read without torch."""

from __future__ import annotations

import argparse

from data_prep.errors import DataError
from data_prep.ray_engine import add_engine_argument


def add_ray_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare ``--engine`` and ``--workers`` of a command that asks a model."""
    add_engine_argument(parser)
    parser.add_argument(
        "--workers",
        type=int,
        choices=range(1, 4097),
        metavar="N",
        help="models at work with --engine ray; default: one for each GPU of the cluster, else for each machine",
    )


def check_engine(args: argparse.Namespace, processes: int) -> None:
    """Raise `DataError` for options that the engine has no use for; ``processes`` are those started by accelerate."""
    if args.engine == "local" and args.workers is not None:
        raise DataError("--workers is of --engine ray; on several GPUs of this machine use accelerate launch")
    if args.engine == "ray" and processes > 1:
        raise DataError("--engine ray shares the work out itself; start it without accelerate launch")
