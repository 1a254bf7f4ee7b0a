"""One language of options: the same thing has one name, older names still work, dashes and underscores are the same.

For commands (dashes) and recipes (underscores) alike, on the command line and in YAML. Imports nothing heavy.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

SYNONYMS = (
    ("videos", "video-root"),
    ("store", "frame-store"),
    ("decode-workers", "workers", "dataloader-num-workers"),
    ("verb-pipeline", "pipeline"),
    ("max-new-tokens", "max-completion-length"),
    ("model", "model-name-or-path"),
)
"""Names of the same thing; the first is what commands call it, recipes keep the names of TRL's fields beside it."""

CPU = {"cpu": ["--cpu"], "device": ["--device", "cpu"], "use_cpu": ["--use_cpu", "true"]}
"""How a command or recipe with an option of that name is told not to use a GPU."""


def known_name(name: str, known: Collection[str]) -> str | None:
    """The one of ``known`` that an option's name (without the dashes in front) means; None where there is none."""
    for candidate in (name, name.replace("_", "-"), name.replace("-", "_")):
        if candidate in known:
            return candidate
    plain = name.replace("_", "-")
    negated = plain.startswith("no-")
    for group in SYNONYMS:
        if plain.removeprefix("no-") in group:
            for other in group:
                for candidate in (other, other.replace("-", "_")):
                    candidate = f"no-{candidate}" if negated else candidate
                    if candidate in known:
                        return candidate
    return None


def translated(arguments: Sequence[str], known: Collection[str]) -> list[str]:
    """Command-line arguments with the names in ``known`` (without dashes in front); what is unknown stays.

    ``--cpu`` and ``--device cpu`` are the same where only one of them is known, recipes' ``--use_cpu true`` included.
    """
    known = set(known)
    left = list(arguments)
    made: list[str] = []
    while left:
        argument = left.pop(0)
        if argument == "--":
            return [*made, argument, *left]
        if not argument.startswith("--") or argument[2:].partition("=")[0] in known:
            made.append(argument)
            continue
        name, equals, value = argument[2:].partition("=")
        if name == "cpu" and not equals:
            made += CPU["use_cpu"] if "use_cpu" in known else CPU["device"] if "device" in known else [argument]
        elif name == "device" and known & {"cpu", "use_cpu"}:
            place = value if equals else left.pop(0) if left else ""
            if place not in ("cpu", "cuda"):
                made += [argument] if equals else [argument, place]
            elif place == "cpu":
                made += CPU["use_cpu"] if "use_cpu" in known else CPU["cpu"]
        else:
            made.append(f"--{known_name(name, known) or name}{equals}{value}")
    return made


def did_you_mean(name: str, known: Collection[str]) -> str:
    """``; did you mean …?`` for a name that is close to known ones, else nothing."""
    plain = {option.replace("_", "-"): option for option in known}
    close = difflib.get_close_matches(name.replace("_", "-"), plain, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(plain[option] for option in close)}?" if close else ""


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that understands `SYNONYMS`, and says what a misspelt word may have meant."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def options(self) -> set[str]:
        """Names of all options, without the dashes in front."""
        return {name[2:] for action in self._actions for name in action.option_strings if name.startswith("--")}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse, of translated arguments; an option that stays unknown is an error at once."""
        if args is not None and not any(action.nargs == argparse.REMAINDER for action in self._actions):
            args = translated(args, self.options())
        found, unknown = super().parse_known_args(args, namespace)
        for word in unknown:
            if word.startswith("--"):
                name = word.partition("=")[0]
                self.error(f"unknown option {name}{did_you_mean(name, {f'--{option}' for option in self.options()})}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices and isinstance(value, str):
            names = [str(choice) for choice in action.choices]
            what = "command" if isinstance(action, argparse._SubParsersAction) else "value"
            hint = did_you_mean(value, names) or f"; choose from {', '.join(names)}"
            raise argparse.ArgumentError(action, f"unknown {what} {value!r} (invalid choice){hint}")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        """As in argparse, but one line of usage: the whole of it hides what is wrong."""
        self.exit(2, f"{self.prog}: error: {message}\n{self.prog} --help lists the options\n")
