"""``invert-rl import-actionformer``: released ActionFormer weights as a folder that ``invert-rl detect`` reads."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl import-actionformer``."""
    parser.description = (
        "Turn a checkpoint of happyharrycn/actionformer_release into a folder with model.safetensors and "
        "invert_rl.json. Averaged weights are taken where there are any. Nothing in the checkpoint is run."
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT.pth.tar")
    parser.add_argument("--config", type=Path, required=True, metavar="C.yaml", help="the repository's own settings")
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="A.json", help="for the classes, by label_id where given"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="MODEL_DIR")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Import and save; 0 on success. Raises `DataError` for bad input."""
    from invert_rl.tal.actionformer import detector_of, read_settings, read_weights, saved_detector
    from invert_rl.tal.annotations import read_database
    from invert_rl.tal.checkpoint import save_detector

    about = saved_detector(read_settings(args.config), read_database(args.annotations), str(args.config))
    model = detector_of(about, read_weights(args.checkpoint), str(args.checkpoint))
    save_detector(model, about, args.output)
    told = {
        "output": str(args.output),
        "classes": len(about.classes),
        "class_agnostic": bool(about.video_classes),
        "parameters": sum(value.numel() for value in model.parameters()),
        "features": {"width": about.layout.width, "stride": about.layout.stride, "clip": about.layout.clip},
        "subset": about.subset,
    }
    if args.json:
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        kind = "class-agnostic" if about.video_classes else f"{len(about.classes)} classes"
        sys.stdout.write(
            f"{args.output}: {kind}, {told['parameters']:,} parameters, features of {about.layout.width} channels at "
            f"stride {about.layout.stride:g}\n"
        )
    return 0
