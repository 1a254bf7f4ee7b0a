"""A task is one file: nothing outside invert_rl/tasks and invert_rl/toy compares the name of one with a literal."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from invert_rl.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]
OWN = ("invert_rl/tasks/", "invert_rl/toy/")
FILES = [
    path
    for folder in ("rewards", "data_prep", "invert_rl", "recipes")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not path.relative_to(ROOT).as_posix().startswith(OWN)
]


def literals_of(node: ast.AST) -> list[str]:
    """The strings that a node compares with, looks up by, or matches."""
    if isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators]
    elif isinstance(node, ast.Subscript):
        parts = [node.slice]
    elif isinstance(node, ast.MatchValue):
        parts = [node.value]
    else:
        return []
    parts += [element for part in parts if isinstance(part, ast.Tuple | ast.List | ast.Set) for element in part.elts]
    return [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def compared(source: str) -> list[tuple[int, str]]:
    """Line and name wherever a task's name is compared with a literal."""
    nodes = ast.walk(ast.parse(source))
    return [(node.lineno, text) for node in nodes for text in literals_of(node) if text in TASKS]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_task_is_compared_with_a_literal(path: Path) -> None:
    assert compared(path.read_text(encoding="utf-8")) == []


def test_the_check_finds_what_it_is_for() -> None:
    source = 'a = task == "tvg"\nb = task in ("vc", "ar")\nc = {}["vd"]\nmatch task:\n    case "tvg":\n        pass\n'
    assert [text for _, text in sorted(compared(source))] == ["tvg", "ar", "vc", "vd", "tvg"]
