"""How the commands that ask a model read videos: options, read without torch, and what they make."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.workers import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from invert_rl.video.prefetch import Prefetcher
    from invert_rl.video.settings import FrameSettings


def add_decoding_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare ``--store``, ``--decode-workers`` and ``--video-timeout``."""
    parser.add_argument("--store", type=Path, metavar="DIR", help="frames kept on disk, as cache-frames writes them")
    parser.add_argument(
        "--decode-workers",
        type=int,
        choices=range(65),
        metavar="N",
        help="processes that decode the next batch's videos; default: 2 with a GPU, else 0",
    )
    parser.add_argument(
        "--video-timeout",
        type=_seconds,
        default=TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="for decoding one video; one that takes longer counts as missing. 0: no limit; default: %(default)g",
    )


def prefetcher(args: argparse.Namespace, settings: FrameSettings, device: str) -> Prefetcher:
    """What decodes the videos in ``args.videos``, for a model on a device of that type ("cpu", "cuda")."""
    from invert_rl.video.prefetch import Prefetcher
    from invert_rl.video.store import FrameStore

    workers = args.decode_workers if args.decode_workers is not None else 2 * (device == "cuda")
    store = FrameStore(args.videos, settings, directory=args.store, timeout=args.video_timeout or None)
    return Prefetcher(store, workers)


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0")
    return value
