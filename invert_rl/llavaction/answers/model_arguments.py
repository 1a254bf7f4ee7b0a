"""Arguments of the commands that ask a model about clips."""

from __future__ import annotations

import argparse
from pathlib import Path

from invert_rl.evaluation.protocols.fields import model_sha256

FRAMES = ("fps", "min_frames", "max_frames", "total_pixels", "min_pixels", "max_pixels")
VIEWS = ("perspective", "time_instruction", "prompt_style")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that name a model, questions and clips."""
    parser.add_argument("--model", required=True, metavar="M", help="the model folder of a run, or any checkpoint")
    parser.add_argument("--data", type=Path, required=True, metavar="MQA.jsonl", help="questions of build-mqa")
    parser.add_argument("--videos", type=Path, required=True, metavar="DIR", help="folder of the videos")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    add_clip_arguments(parser)
    parser.add_argument("--perspective", help="wording of the question, as in training")
    parser.add_argument(
        "--prompt-style",
        choices=("paper", "released"),
        help="wording of the paper or the released code",
    )


def add_clip_arguments(parser: argparse._ActionsContainer) -> None:
    """Arguments that say how a model is loaded and shown clips; what is not given is as in the run it is of."""
    parser.add_argument(
        "--no-action-token", action="store_true", help="ask without the action token, as a checkpoint without one"
    )
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32"))
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    parser.add_argument("--fps", type=float, help="frames a second; default of all these: the run's, or the paper's")
    for name in FRAMES[1:]:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    parser.add_argument(
        "--time-instruction",
        action=argparse.BooleanOptionalAction,
        help="prompts begin with the clip's length, as in training",
    )


def model_identity(model: str) -> dict[str, str]:
    """What answers belong to: a model's name and what its folder holds, since it may have been trained again."""
    folder = Path(model)
    return {"model": str(model)} | ({"weights": model_sha256(folder)} if folder.is_dir() else {})
