"""A recipe's settings, from the command line and YAML."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl import ModelConfig

from data_prep.errors import DataError
from invert_rl.errors import need_module
from invert_rl.one_language import translated
from invert_rl.options import check_model_options
from invert_rl.plugins import load_plugins, plugins_of_arguments
from invert_rl.recipe.parser import RecipeParser
from invert_rl.recipe_files import config_path


def config_arguments(arguments: Sequence[str], default: Path) -> list[str]:
    """Command-line arguments for `TrlParser`, with ``--config default`` in front unless a config is named."""
    normal: list[str] = []
    for argument in arguments:
        normal.extend(["--config", argument[len("--config=") :]] if argument.startswith("--config=") else [argument])
    if "--config" not in normal and not {"-h", "--help"} & set(normal):
        normal = ["--config", str(default), *normal]
    if "--config" in normal[:-1]:
        place = normal.index("--config") + 1
        normal[place] = config_path(normal[place])
    return normal


def parse_arguments(recipe: str, classes: Sequence[type], default: Path) -> tuple[Any, ...]:
    """The recipe's settings from command line and YAML, one object per dataclass; ``--help`` knows all fields.

    Raises `DataError` for a setting that cannot be used.
    """
    arguments = config_arguments(sys.argv[1:], default)
    load_plugins(plugins_of_arguments(arguments))  # their tasks and rewards are known before settings are checked
    parser = RecipeParser(tuple(classes), prog=f"accelerate launch recipes/{recipe}.py")
    try:
        parsed = parser.parse_args_and_config(translated(arguments, {*parser.names(), "config", "help"}))
        for part in parsed:
            if isinstance(part, ModelConfig):
                check_model_options(part)
    except DataError:
        raise
    except (ValueError, OSError, TypeError, ImportError, NotImplementedError) as error:
        raise DataError(f"settings: {error}") from error
    first = parsed[0]
    if getattr(first, "use_vllm", False):
        need_module("vllm", "use_vllm", "--use_vllm false")
    if "wandb" in first.report_to:
        need_module("wandb", "--report_to wandb")
    return parsed
