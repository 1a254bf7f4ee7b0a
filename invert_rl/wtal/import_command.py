"""``invert-rl import-delu``: DELU's or CO2-Net's released weights as a folder that ``invert-rl detect`` reads.

Names of weights are facts of MengyuanChen21/ECCV2022-DELU and harlanhong/MM2021-CO2-Net (model.py), the same in both;
none of their code is here.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import DataError
from data_prep.files import read_text

if TYPE_CHECKING:
    from torch import Tensor

RENAMED = (
    (r"vAttn\.bit_wise_attn\.", "base.attention.rgb.local."),
    (r"vAttn\.channel_conv\.", "base.attention.rgb.whole."),
    (r"vAttn\.attention\.", "base.attention.rgb.attention."),
    (r"fAttn\.bit_wise_attn\.", "base.attention.flow.local."),
    (r"fAttn\.channel_conv\.", "base.attention.flow.whole."),
    (r"fAttn\.attention\.", "base.attention.flow.attention."),
    (r"fusion\.0\.", "base.fusion.0."),
    (r"classifier\.1\.", "base.hidden.1."),
    (r"classifier\.4\.", "base.classifier."),
)
"""Official names of weights, and ours."""
UNUSED = "feat_encoder."
"""Weights that the official network has and never uses."""
POOLS = {"thumos14": 1, "activitynet": 13}
"""Snippets that scores are averaged over: the official networks ``DELU`` and ``DELU_ACT``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl import-delu``."""
    parser.description = (
        "Turn a checkpoint of MengyuanChen21/ECCV2022-DELU into a folder with model.safetensors and wtal.json. Nothing "
        "in the checkpoint is run."
    )
    parser.add_argument("checkpoint", type=Path, metavar="best_delu_thumos.pkl")
    parser.add_argument(
        "--classes",
        type=Path,
        required=True,
        metavar="FILE",
        help="classlist.npy of its data set, or names, one a line",
    )
    parser.add_argument("--network", choices=tuple(POOLS), default="thumos14", help="default: thumos14")
    parser.add_argument("--base", choices=("delu", "co2net"), default="delu", help="whose weights; default: delu")
    parser.add_argument("--output", type=Path, required=True, metavar="MODEL_DIR")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Import and save; 0 on success. Raises `DataError` for bad input."""
    from invert_rl.tal.actionformer import read_weights
    from invert_rl.wtal.export import save_localizer
    from invert_rl.wtal.words import Vocabulary

    classes = read_classes(args.classes)
    weights = renamed(read_weights(args.checkpoint), str(args.checkpoint))
    settings, model = localizer_of(weights, len(classes), POOLS[args.network], str(args.checkpoint), args.base)
    settings.test_subset = "test" if args.network == "thumos14" else "validation"
    save_localizer(args.output, model, settings, classes, Vocabulary(()))
    told = {"output": str(args.output), "classes": len(classes), "parameters": sum(w.numel() for w in weights.values())}
    text = f"{args.output}: {len(classes)} classes, {told['parameters']:,} parameters"
    sys.stdout.write((json.dumps(told) if args.json else text) + "\n")
    return 0


def read_classes(path: Path) -> list[str]:
    """Names in the order of the weights; raises `DataError` for a file without names, or with one twice."""
    if path.suffix == ".npy":
        import numpy as np

        try:
            names = [name.decode() if isinstance(name, bytes) else str(name) for name in np.load(path).ravel().tolist()]
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as an array of names ({error})") from error
    else:
        names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not names or len(set(names)) != len(names):
        raise DataError(f"{path}: expected different names of classes, one a line")
    return names


def renamed(official: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The weights by our names; raises `DataError` for an unknown one."""
    found: dict[str, Tensor] = {}
    for name, value in official.items():
        ours = next((re.sub(old, new, name) for old, new in RENAMED if re.match(old, name)), None)
        if ours is not None:
            found[ours] = value.float()
        elif not name.startswith(UNUSED):
            raise DataError(f"{where}: has an unknown weight {name}; is it one of DELU's?")
    return found


def localizer_of(
    weights: Mapping[str, Tensor], classes: int, pool: int, where: str, base: str = "delu"
) -> tuple[Any, Any]:
    """Settings and model of weights, whose shapes tell the sizes; raises `DataError` where they do not fit."""
    from invert_rl.wtal.config import BASES, WtalArguments
    from invert_rl.wtal.model import SemanticLocalizer

    try:
        rgb, flow = (weights[f"base.attention.{stream}.whole.0.weight"].shape[1] for stream in ("rgb", "flow"))
        hidden = weights["base.attention.rgb.attention.0.weight"].shape[0]
        width, outputs = weights["base.hidden.1.weight"].shape[0], weights["base.classifier.weight"].shape[0]
    except KeyError as error:
        raise DataError(f"{where}: lacks {error.args[0]} by our name; is it one of DELU's checkpoints?") from error
    if outputs != classes + 1:
        raise DataError(f"{where}: scores {outputs - 1} classes and background, but {classes} names are given")
    settings = WtalArguments(
        output_dir=".",
        use_cpu=True,
        matching=False,
        reconstruction=False,
        rgb_width=rgb,
        flow_width=flow,
        attention_width=hidden,
        width=width,
        pool=pool,
        base=base,
    )
    model = SemanticLocalizer(BASES[base](settings.delu(classes)))
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise DataError(f"{where}: the weights do not fit together ({str(error).splitlines()[-1].strip()})") from error
    return settings, model.eval()
