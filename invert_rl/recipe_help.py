"""``--help`` of a recipe at once: its own options in groups, read from the source; torch and TRL are not imported.

TRL's and transformers' own options, hundreds of them, are folded: ``--help all`` lists them too.
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Option:
    """One field of a class of settings."""

    name: str
    kind: str
    default: str | None
    help: str


@dataclass(frozen=True)
class Group:
    """The fields that one class adds."""

    title: str
    options: list[Option]


def show_help(recipe: str, about: str | None) -> None:
    """Print the help of the recipe file ``recipe`` and end, if the command line asks for it and not for ``all``."""
    words = sys.argv[1:]
    place = next((place for place, word in enumerate(words) if word in ("-h", "--help")), None)
    if place is None:
        return
    if words[place + 1 : place + 2] == ["all"]:
        sys.argv = [*sys.argv[: place + 2], *sys.argv[place + 3 :]]
        return
    sys.stdout.write(help_text(Path(recipe), about or ""))
    raise SystemExit(0)


def help_text(recipe: Path, about: str) -> str:
    """The help as `show_help` prints it."""
    width = min(120, shutil.get_terminal_size().columns)
    groups, others = groups_of(recipe)
    lines = [about.strip(), "", "Each option is a YAML key, too: --config FILE, or the name of a shipped one."]
    for group in groups:
        lines += ["", f"{group.title}:"]
        for option in group.options:
            head = f"  --{option.name} {option.kind}"
            told = option.help + (f" (default: {option.default})" if option.default is not None else "")
            room = textwrap.wrap(told, max(40, width - 34)) or [""]
            if len(head) < 33:
                lines.append(f"{head:<33} {room[0]}")
                room = room[1:]
            else:
                lines.append(head)
            lines += [" " * 34 + text for text in room]
    if others:
        lines += ["", f"And all of {', '.join(others)} (learning_rate, max_steps, …): --help all lists them."]
    return "\n".join(lines) + "\n"


def groups_of(recipe: Path) -> tuple[list[Group], list[str]]:
    """The groups of options of a recipe, its own first, and the names of classes of TRL and transformers beside."""
    tree = ast.parse(recipe.read_text(encoding="utf-8"))
    imports = _imports(tree)
    call = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PARSERS
    )
    names = [node.id for node in ast.walk(call) if isinstance(node, ast.Name) and node.id in imports]
    groups: list[Group] = []
    others: list[str] = []
    for name in names:
        if name in PARSERS:
            continue
        _collect(name, imports, groups, others)
    return groups, list(dict.fromkeys(others))


TITLES = {
    "Task": "tasks, prompts and verbs",
    "Frame": "frames",
    "Validation": "validation while training",
    "Resume": "resuming",
    "Feature": "features",
    "Supervised": "the trainer",
}
"""What groups are called, by the names of their classes."""
PARSERS = ("parse_arguments", "TrlParser")
"""What recipes hand their classes of settings to."""


def _collect(name: str, imports: dict[str, str], groups: list[Group], others: list[str]) -> None:
    """Add the groups of the class ``name`` and of its bases, in the order of inheritance."""
    module = imports.get(name, "")
    path = ROOT / f"{module.replace('.', '/')}.py"
    if not module.startswith("invert_rl") or not path.is_file():
        if module and name[:1].isupper():
            others.append(f"{module.partition('.')[0]}.{name}")
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if found is None:
        return
    title = re.sub(r"(Fields|Config|Arguments)$", "", name)
    title = "Options of this recipe" if not groups else f"Options on {TITLES.get(title, title)}"
    options = [option for node in found.body if (option := _option(node)) is not None]
    known = {option.name for group in groups for option in group.options}
    options = [option for option in options if option.name not in known]
    if options:
        groups.append(Group(title, options))
    inner = {**_imports(tree), **{node.name: module for node in tree.body if isinstance(node, ast.ClassDef)}}
    for base in found.bases:
        if isinstance(base, ast.Name):
            _collect(base.id, inner, groups, others)


def _imports(tree: ast.Module) -> dict[str, str]:
    """Module of each name that a file imports from somewhere."""
    return {
        alias.asname or alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def _option(node: ast.stmt) -> Option | None:
    """The option that an annotated assignment ``name: type = field(default=…, metadata={"help": …})`` declares."""
    if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
        return None
    kind = ast.unparse(node.annotation).replace(" | None", "")
    default, told = None, ""
    if isinstance(node.value, ast.Call):
        for keyword in node.value.keywords:
            if keyword.arg == "default":
                default = ast.unparse(keyword.value)
            elif keyword.arg == "default_factory" and isinstance(keyword.value, ast.Lambda):
                default = ast.unparse(keyword.value.body)
            elif keyword.arg == "metadata" and isinstance(keyword.value, ast.Dict):
                content = {
                    key.value: value
                    for key, value in zip(keyword.value.keys, keyword.value.values, strict=True)
                    if isinstance(key, ast.Constant)
                }
                if isinstance(content.get("help"), ast.Constant):
                    told = str(content["help"].value)  # type: ignore[attr-defined]
                if isinstance(content.get("choices"), ast.List | ast.Tuple):
                    told += f" ({', '.join(ast.unparse(choice) for choice in content['choices'].elts)})"  # type: ignore[attr-defined]
    elif node.value is not None:
        default = ast.unparse(node.value)
    shown = None if default in (None, "None", "''") else default.strip("'\"") if default else default
    return Option(node.target.id, kind, shown, told.replace("%%", "%"))
