"""``invert-rl extract-clip``: CLIP features and class texts of annotated videos, for recipes/train_psftr.py."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import DataError
from data_prep.progress import progress
from invert_rl.tal.annotations import class_names, read_database

if TYPE_CHECKING:
    from invert_rl.video.store import FrameStore

MODEL = "openai/clip-vit-base-patch16"
"""CLIP ViT-B/16, the paper's [S]."""
SHOWN = 20
"""How many videos without features the text summary lists."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl extract-clip``."""
    parser.description = (
        "Write CLIP features (OUTPUT/VIDEO.npy) of every annotated video and embeddings of the classes in all "
        "prompts (OUTPUT/text.safetensors). What is there already stays: run it again to go on. Exit code: 0 if "
        "every video has features, 1 if not."
    )
    parser.add_argument("annotations", type=Path, metavar="ANNOTATIONS.json", help="as invert-rl convert writes them")
    parser.add_argument("--videos", type=Path, metavar="DIR", help="the video folder; without it only class texts")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where features and texts go")
    parser.add_argument("--model", default=MODEL, help="a CLIP checkpoint (default: %(default)s)")
    parser.add_argument("--revision", help="of the checkpoint")
    parser.add_argument("--stride", type=float, default=8, help="frames between rows (default: 8; ActivityNet: 16)")
    parser.add_argument("--fps", type=float, help="rate that the stride counts (default: each video's, as annotated)")
    parser.add_argument("--prefix", default="", help="of video files before the id, such as v_")
    parser.add_argument("--subset", help="only videos of this subset")
    parser.add_argument("--spaced-names", action="store_true", help="class texts 'clean and jerk' for CleanAndJerk")
    parser.add_argument("--store", type=Path, metavar="DIR", help="keep the decoded frames here (large)")
    parser.add_argument("--batch", type=int, default=64, help="frames at a time (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="such as cuda (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for decoding a video")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Extract; returns the exit code described in ``--help``."""
    from invert_rl.models import CheckpointError
    from invert_rl.psftr.clip import Clip
    from invert_rl.psftr.extract import Extraction, claim_folder, extract_text, extract_videos, find_videos, rate_of

    if args.stride <= 0 or args.batch < 1 or (args.fps is not None and args.fps <= 0):
        raise DataError("--stride, --fps and --batch must be positive")
    database = read_database(args.annotations)
    try:
        clip = Clip(args.model, args.revision, args.device)
    except CheckpointError as error:
        raise DataError(str(error)) from error
    extraction = Extraction(args.model, args.stride, args.fps, args.spaced_names)
    claim_folder(args.output, extraction)
    text = extract_text(clip, class_names(database), args.output, extraction)
    summary: dict[str, Any] = {"text": str(text), "videos": 0, "extracted": 0, "missing": [], "broken": {}}
    if args.videos is not None:
        wanted = [
            video
            for video, record in database.items()
            if args.subset is None or str(record.get("subset")).casefold() == args.subset.casefold()
        ]
        if not wanted:
            raise DataError(f"{args.annotations}: no video in subset {args.subset!r}")
        files, summary["missing"] = find_videos(args.videos, wanted, args.prefix)
        summary["videos"] = len(wanted)
        stores = _stores(args, {video: rate_of(video, database[video], extraction) for video in files}, clip.side)
        done = extract_videos(clip, database, files, stores, args.output, extraction, args.batch)
        for video, reason in progress(done, "extract-clip", total=len(files)):
            if reason is None:
                summary["extracted"] += 1
            else:
                summary["broken"][video] = reason
    sys.stdout.write(json.dumps(summary, ensure_ascii=False) + "\n" if args.json else _as_text(summary, args))
    return 1 if summary["missing"] or summary["broken"] else 0


def _stores(args: argparse.Namespace, rates: dict[str, float], side: int) -> dict[str, FrameStore]:
    """A frame store per frame rate, by video."""
    from invert_rl.video.settings import FrameSettings
    from invert_rl.video.store import FrameStore

    by_rate = {
        rate: FrameStore(args.videos, FrameSettings.every_row(rate / args.stride, side), 0, args.store, args.timeout)
        for rate in set(rates.values())
    }
    return {video: by_rate[rate] for video, rate in rates.items()}


def _as_text(summary: dict[str, Any], args: argparse.Namespace) -> str:
    lines = [f"class texts in {summary['text']}"]
    if args.videos is not None:
        lines.append(f"{summary['extracted']} of {summary['videos']} videos have features in {args.output}")
    without = [*((video, "no file") for video in summary["missing"]), *summary["broken"].items()]
    lines += [f"  {video}: {reason}" for video, reason in without[:SHOWN]]
    if len(without) > SHOWN:
        lines.append(f"  … and {len(without) - SHOWN} more, with --json")
    return "\n".join(lines) + "\n"
