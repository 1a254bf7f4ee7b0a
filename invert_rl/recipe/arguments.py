"""A recipe's settings, from the command line and YAML."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from trl import ModelConfig, TrlParser

from data_prep.errors import DataError
from invert_rl.errors import need_module
from invert_rl.one_language import did_you_mean, known_name, translated
from invert_rl.options import check_model_options
from invert_rl.plugins import load_plugins, plugins_of_arguments
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


class RecipeParser(TrlParser):
    """TRL's parser, which knows other names of an option (`invert_rl.one_language`) and guesses at misspelt ones."""

    def names(self) -> set[str]:
        """Names of all options."""
        return {action.dest for action in self._actions}

    def set_defaults_with_config(self, **kwargs: Any) -> list[str]:
        """As TRL's, with the names that the fields have; raises `DataError` for a key that is none of them."""
        names = self.names()
        renamed: dict[str, Any] = {}
        for key, value in kwargs.items():
            name = known_name(key, names)
            if name is None:
                raise DataError(f"settings: unknown key {key!r} in the config{did_you_mean(key, names)}")
            if name in renamed:
                raise DataError(f"settings: {key!r} in the config is another name of {name!r}, which is there as well")
            renamed[name] = value
        return super().set_defaults_with_config(**renamed)

    def parse_args_into_dataclasses(self, args: Any = None, *others: Any, **kwargs: Any) -> Any:
        """As transformers' parser does; an option that no class has is a `DataError` with a guess."""
        names = self.names()
        for word in args or ():
            name = word.partition("=")[0]
            if word.startswith("--") and len(name) > 2 and not any(known.startswith(name[2:]) for known in names):
                known = {f"--{known}" for known in names}
                raise DataError(f"settings: unknown option {name}{did_you_mean(name, known)}")
        return super().parse_args_into_dataclasses(args, *others, **kwargs)


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
    except yaml.YAMLError as error:
        raise DataError(f"settings: not valid YAML: {error}") from error
    except (ValueError, OSError, TypeError, ImportError, NotImplementedError) as error:
        raise DataError(f"settings: {error}") from error
    first = parsed[0]
    if getattr(first, "use_vllm", False):
        need_module("vllm", "use_vllm", "--use_vllm false")
    if "wandb" in first.report_to:
        need_module("wandb", "--report_to wandb")
    return parsed
