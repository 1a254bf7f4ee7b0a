"""Plugins: modules of one's own that register tasks and rewards, imported before any setting is checked."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from data_prep.errors import DataError
from invert_rl.strict_yaml import read_yaml

_loaded: dict[str, ModuleType] = {}


def load_plugins(names: Sequence[str]) -> list[ModuleType]:
    """Import files (``my_tasks.py``) and dotted modules, each once a process; returns the modules.

    Raises `DataError` that names the plugin, and file and line of what it raised.
    """
    return [_load(name) for name in names]


def _load(name: str) -> ModuleType:
    path = Path(name)
    is_file = name.endswith(".py")
    key = str(path.resolve()) if is_file else name
    if key in _loaded:
        return _loaded[key]
    if is_file and not path.is_file():
        raise DataError(f"--plugins {name}: no such file")
    try:
        _loaded[key] = _import_file(path) if is_file else importlib.import_module(name)
    except Exception as error:  # whatever the user's code raises
        if isinstance(error, ModuleNotFoundError) and not is_file and name.startswith(error.name or "\0"):
            raise DataError(f"--plugins {name}: no such module; give a .py file, or put it on PYTHONPATH") from error
        frame = traceback.extract_tb(error.__traceback__)[-1]
        line = error.lineno if isinstance(error, SyntaxError) else frame.lineno
        file = error.filename if isinstance(error, SyntaxError) else frame.filename
        raise DataError(f"--plugins {name}: {type(error).__name__}: {error} ({file}:{line})") from error
    return _loaded[key]


def _import_file(path: Path) -> ModuleType:
    name = f"invert_rl_plugin_{path.stem}"
    if name in sys.modules:
        raise ImportError(f"two plugins are called {path.name}; rename one")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def plugins_of_arguments(arguments: Sequence[str]) -> list[str]:
    """The plugins that a command line names by ``--plugins``, else those of the YAML that it names by ``--config``."""
    named: list[str] = []
    config = None
    option = None
    for argument in arguments:
        if argument.startswith("-") and not _is_number(argument):
            option, _, value = argument.partition("=")
            if not value:
                continue
            argument = value
        if option == "--plugins":
            named.append(argument)
        elif option == "--config":
            config, option = argument, None
    if named or config is None:
        return named
    try:
        given = read_yaml(config).get("plugins") or []
    except DataError:
        return []  # the parser of the settings says what is wrong with the file
    return [given] if isinstance(given, str) else [str(name) for name in given]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
