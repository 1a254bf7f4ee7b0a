"""The parser of all recipes: TRL's, with strict YAML, other names of options, guesses at misspelt ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn

from trl import TrlParser

from data_prep.errors import DataError
from invert_rl.one_language import did_you_mean, known_name
from invert_rl.recipe.field_kinds import FieldKinds
from invert_rl.strict_yaml import read_yaml


class RecipeParser(TrlParser):
    """TRL's parser, which knows other names of an option (`invert_rl.one_language`) and guesses at misspelt ones.

    A YAML is read by `invert_rl.strict_yaml`, its values are what their fields take (`invert_rl.recipe.field_kinds`).
    """

    def names(self) -> set[str]:
        """Names of all options."""
        return {action.dest for action in self._actions}

    def parse_args_and_config(self, args: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """As TRL's; raises `DataError` for what cannot be used, wherever it was given."""
        words = list(args or ())
        if words and words[-1] == "--config":
            raise DataError("settings: --config needs a YAML file, or the name of a shipped one")
        if "--config" in words:
            place = words.index("--config")
            try:
                config = read_yaml(words[place + 1])
            except DataError as error:
                raise DataError(f"settings: {error}") from error
            del words[place : place + 2]
            variables = config.pop("env", {})
            if not isinstance(variables, dict):
                raise DataError("settings: env in the config must be a mapping, NAME: value")
            os.environ.update({str(name): str(value) for name, value in variables.items()})
            self.set_defaults_with_config(**config)
        return super().parse_args_and_config(words, **kwargs)

    def set_defaults_with_config(self, **kwargs: Any) -> list[str]:
        """As TRL's, with the names that the fields have; raises `DataError` for a key or a value that is none."""
        names = self.names()
        kinds = FieldKinds(self.dataclass_types)
        given: dict[str, Any] = {}
        for key, value in kwargs.items():
            name = known_name(key, names - {"help"})
            if name is None:
                raise DataError(f"settings: unknown key {key!r} in the config{did_you_mean(key, names)}")
            if name in given:
                raise DataError(f"settings: {key!r} in the config is another name of {name!r}, which is there as well")
            given[name] = kinds.fitting(name, value)
        return super().set_defaults_with_config(**given)

    def parse_args_into_dataclasses(self, args: Any = None, *others: Any, **kwargs: Any) -> Any:
        """As transformers' parser does; an option that no class has is a `DataError` with a guess."""
        known = {option for action in self._actions for option in action.option_strings}
        for word in args or ():
            name = word.partition("=")[0]
            if word.startswith("--") and len(name) > 2 and name not in known:
                guess = did_you_mean(name, {f"--{option}" for option in self.names()})
                raise DataError(f"settings: unknown option {name}{guess}")
        parsed = super().parse_args_into_dataclasses(args, *others, **kwargs)
        for part in parsed:
            _refuse_texts(part)
        return parsed

    def error(self, message: str) -> NoReturn:
        """Not the usage of three hundred options: what is wrong."""
        raise DataError(f"settings: {message}; --help lists the options")


def _refuse_texts(settings: Any) -> None:
    """An empty text, such as of a shell variable that is not set, must not mean the default; no file has a NUL."""
    for item in fields(settings):
        value = getattr(settings, item.name, None)
        if value == "" and item.default != "":
            raise DataError(f"settings: {item.name} is empty; give a value, or leave it out")
        if isinstance(value, str) and ("\0" in value or any("\ud800" <= sign <= "\udfff" for sign in value)):
            raise DataError(f"settings: {item.name} holds a character that no text has: {ascii(value)}")
