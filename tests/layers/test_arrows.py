"""Each layer imports only the layers above it: rewards, data_prep, invert_rl, recipes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "rewards": {"rewards"},
    "data_prep": {"data_prep", "rewards"},
    "invert_rl": {"invert_rl", "data_prep", "rewards"},
    "recipes": {"invert_rl", "data_prep", "rewards"},
}
NO_TORCH = ("rewards", "data_prep")
FILES = [path for layer in ALLOWED for path in sorted((ROOT / layer).rglob("*.py"))]


def imported_packages(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, lazily too."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            packages.add(node.module.split(".")[0])
    return packages


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_the_layers_above_its_own(path: Path):
    layer = path.relative_to(ROOT).parts[0]
    packages = imported_packages(path)
    assert packages & set(ALLOWED) <= ALLOWED[layer]
    if layer in NO_TORCH:
        assert not packages & {"torch", "torchvision", "transformers", "trl"}


@pytest.mark.parametrize(
    "statement", ["import rewards, rewards.verbs, rewards.iou", "import data_prep.convert.command"]
)
def test_importing_a_light_layer_does_not_import_torch(statement: str):
    code = f"import sys; {statement}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_check_finds_a_forbidden_import(tmp_path: Path):
    """The negative control: the scan sees lazy imports too."""
    path = tmp_path / "bad.py"
    path.write_text("def f():\n    from invert_rl.tasks import TASKS\n    import torch.nn\n")
    assert imported_packages(path) == {"invert_rl", "torch"}
