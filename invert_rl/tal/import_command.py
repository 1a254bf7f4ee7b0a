"""``invert-rl import-actionformer``: released ActionFormer weights as a folder that ``invert-rl detect`` reads."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.errors import DataError
from data_prep.files import read_text

if TYPE_CHECKING:
    from invert_rl.tal.checkpoint import SavedDetector
    from invert_rl.tal.detector import Detector


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl import-actionformer``."""
    parser.description = (
        "Turn an ActionFormer checkpoint of happyharrycn/actionformer_release (a .yaml config) or of sming256/OpenTAD "
        "(a .py config) into a folder with model.safetensors and invert_rl.json. Averaged weights are taken where "
        "there are any. Nothing in checkpoint or config is run."
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT.pth.tar")
    parser.add_argument("--config", type=Path, required=True, metavar="C.yaml", help="the repository's own settings")
    parser.add_argument("--annotations", type=Path, metavar="A.json", help="yaml: the classes, by label_id where given")
    parser.add_argument("--class-map", type=Path, metavar="category_idx.txt", help="OpenTAD: the classes, one a line")
    parser.add_argument("--output", type=Path, required=True, metavar="MODEL_DIR")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Import and save; 0 on success. Raises `DataError` for bad input."""
    from invert_rl.tal.checkpoint import save_detector

    about, model = of_opentad(args) if args.config.suffix == ".py" else of_actionformer(args)
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


def of_actionformer(args: argparse.Namespace) -> tuple[SavedDetector, Detector]:
    """Detector of the authors' repository."""
    from invert_rl.tal.actionformer import detector_of, read_weights, saved_detector
    from invert_rl.tal.actionformer_settings import read_settings
    from invert_rl.tal.annotations import read_database

    if args.annotations is None or args.class_map is not None:
        raise DataError(f"{args.config}: the settings of actionformer_release need --annotations, and no --class-map")
    about = saved_detector(read_settings(args.config), read_database(args.annotations), str(args.config))
    return about, detector_of(about, read_weights(args.checkpoint), str(args.checkpoint))


def of_opentad(args: argparse.Namespace) -> tuple[SavedDetector, Detector]:
    """Detector of OpenTAD."""
    from invert_rl.tal.actionformer import detector_of, read_weights
    from invert_rl.tal.opentad import IGNORED, RENAMED, SCALE, read_config, saved_detector

    if args.class_map is None or args.annotations is not None:
        raise DataError(f"{args.config}: the settings of OpenTAD need --class-map, and no --annotations")
    classes = tuple(line.strip() for line in read_text(args.class_map).splitlines() if line.strip())
    about = saved_detector(read_config(args.config), classes, str(args.config))
    return about, detector_of(about, read_weights(args.checkpoint), str(args.checkpoint), RENAMED, SCALE, IGNORED)
