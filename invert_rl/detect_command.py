"""``invert-rl detect``: detections of a saved model, test only; shared out over ranks, and resumed after a kill."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from data_prep.errors import DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl detect``."""
    parser.description = (
        "Detect actions in features with a saved model: of import-actionformer, import-delu or "
        "recipes/distill_wtal.py. Shares the videos out under accelerate launch -m invert_rl.cli detect ...; a killed "
        "command goes on where it was."
    )
    parser.add_argument("--model", type=Path, required=True, metavar="MODEL_DIR")
    parser.add_argument("--annotations", type=Path, metavar="A.json", help="videos and their durations")
    parser.add_argument("--features", type=Path, metavar="F", help="folder or HDF5 file")
    parser.add_argument("--output", type=Path, required=True, metavar="detections.json")
    parser.add_argument("--subset", metavar="NAME", help="default: the model's test subset")
    parser.add_argument(
        "--joint-features", type=Path, metavar="DIR", help="weakly supervised models: the field's single pickled file"
    )
    parser.add_argument("--allow-pickle", action="store_true", help="read that file, which can run any code")
    parser.add_argument(
        "--external-scores", type=Path, metavar="S.json", help="class scores of videos, for class-agnostic models"
    )
    parser.add_argument(
        "--external-classes", type=int, default=2, metavar="K", help="best classes of a video; default: 2"
    )
    parser.add_argument("--max-segments", type=int, metavar="N", help="detections of a video; default: the model's")
    parser.add_argument("--min-length", type=float, metavar="ROWS", help="shortest detection; default: the model's")
    parser.add_argument(
        "--bad-features",
        choices=("error", "skip", "take"),
        default="error",
        help="see docs/detection.md; default: error",
    )
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Detect and write; 0 on success. Raises `DataError` for bad input."""
    from accelerate import PartialState

    from invert_rl.tal.detect_job import detector_job
    from invert_rl.tal.sharded import detect_sharded
    from invert_rl.wtal.detect_job import localizer_job
    from invert_rl.wtal.export import SETTINGS

    if not args.model.is_dir():
        raise DataError(f"{args.model}: no such folder; import-actionformer, import-delu and recipes make one")
    weak = (args.model / SETTINGS).is_file()
    if not weak and args.joint_features is not None:
        raise DataError(f"--joint-features: only weakly supervised models read it, and {args.model} holds none")
    state = PartialState(cpu=args.cpu)
    job = (localizer_job if weak else detector_job)(args, state.device)
    detect_sharded(job, args.output, state)
    if state.is_main_process:
        told = {"output": str(args.output), "videos": len(job.videos), "features": job.features}
        left_out = job.features["left_out"]
        left = f", {left_out} left out for their features" if left_out else ""
        text = json.dumps(told) if args.json else f"{args.output}: detections of {len(job.videos)} videos{left}"
        sys.stdout.write(text + "\n")
    return 0
