"""``invert-rl train``: a recipe by `accelerate launch`, from wherever the library is installed."""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from data_prep.errors import DataError
from invert_rl.recipe_files import NAMES, config_path, recipes_folder

LAUNCH = "--launch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl train``."""
    parser.description = (
        "Run a recipe by accelerate launch: `invert-rl train grpo --config charades_sta/qwen2_5_vl_3b --launch "
        "8gpu_ddp --train_data train.jsonl …`. --config and --launch take files or names of shipped ones "
        "(recipes/configs, recipes/configs/accelerate); all other options are the recipe's: `invert-rl train grpo "
        "--help`."
    )
    parser.add_argument("recipe", choices=tuple(NAMES), help="which one")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="…", help="options of the recipe")


def run(args: argparse.Namespace) -> int:
    """Become the recipe's process; returns only where that fails. Raises `DataError` for an unknown config."""
    recipe = recipes_folder() / f"{NAMES[args.recipe]}.py"
    command = command_of(str(recipe), args.options)
    sys.stderr.write(f"{shlex.join(command)}\n")
    sys.stderr.flush()
    os.execv(sys.executable, command)


def command_of(recipe: str, options: list[str]) -> list[str]:
    """The command line that runs a recipe with ``options``; help and recipes that launch by themselves run directly."""
    left, kept = list(options), []
    launch: str | None = None
    while left:
        option = left.pop(0)
        name, equals, value = option.partition("=")
        if name in (LAUNCH, "--config"):
            if not equals and not left:
                raise DataError(f"{name}: give a file or the name of a shipped one")
            value = value if equals else left.pop(0)
            if name == "--config":
                kept += [name, config_path(value)]
            else:
                launch = config_path(value if "/" in value or value.endswith(".yaml") else f"accelerate/{value}")
        else:
            kept.append(option)
    if recipe.endswith("ablation.py") or {"-h", "--help"} & set(kept):
        if launch is not None:
            raise DataError(f"{LAUNCH} is for training; this runs in one process")
        return [sys.executable, recipe, *kept]
    file = ["--config_file", launch] if launch is not None else []
    return [sys.executable, "-m", "accelerate.commands.launch", *file, recipe, *kept]
