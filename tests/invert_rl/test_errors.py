"""Errors that a person can mend are one sentence; those of this library's own keep their traceback."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from data_prep.errors import DataError
from invert_rl.cache import cache_folder
from invert_rl.cli import main
from invert_rl.errors import explain, need_module
from invert_rl.loading import CheckpointError
from invert_rl.recipe.arguments import parse_arguments
from invert_rl.recipe.console import clear_errors
from invert_rl.tal.training import SupervisedArguments

SENTENCES = {
    "disk full": (OSError(errno.ENOSPC, "No space left on device", "runs/x"), "runs/x: No space left on device; free"),
    "read-only": (OSError(errno.EROFS, "Read-only file system", "runs/x"), "runs/x: Read-only file system; choose"),
    "no permission": (PermissionError(errno.EACCES, "Permission denied", "a"), "a: Permission denied; give"),
    "a file is gone": (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.json"), "a.json: No such file"),
    "disk full, safetensors": (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full"),
    "disk full, torch": (
        RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/3: file write failed"),
        "the disk is full",
    ),
    "disk full at the end of a file, torch": (
        RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 5173760 vs 5173652"),
        "the disk is full",
    ),
    "no vLLM": (
        ImportError("vLLM is not available and `use_vllm` is set to True. Please install vLLM with `pip install vllm`"),
        r"vllm is not installed: pip install -e '\.\[vllm\]'",
    ),
    "no wandb": (
        RuntimeError("WandbCallback requires wandb to be installed. Run `pip install wandb`."),
        r"wandb is not installed: pip install -e '\.\[wandb\]'",
    ),
    "no h5py": (
        ModuleNotFoundError("No module named 'h5py'"),
        r"h5py is not installed: pip install -e '\.\[tal\]'",
    ),
    "no other module": (ModuleNotFoundError("No module named 'bitsandbytes.nn'"), "No module named 'bitsandbytes.nn'"),
    "bad data": (DataError("rows.jsonl:3: no\nquery"), "rows.jsonl:3: no query"),
    "a checkpoint": (CheckpointError("model: 1 missing: x"), "model: 1 missing: x"),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_a_sentence_with_what_to_do(case, capsys):
    error, message = SENTENCES[case]
    with pytest.raises(SystemExit) as stop, clear_errors():
        raise error
    assert stop.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert re.search(message, lines[0]), lines[0]


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError(), RuntimeError("shapes differ"), TypeError("f()")])
def test_a_fault_of_our_own_keeps_its_traceback(error):
    assert explain(error) is None
    with pytest.raises(type(error)), clear_errors():
        raise error


def test_a_module_is_asked_for_before_anything_is_loaded():
    need_module("torch", "--x")
    with pytest.raises(DataError, match="--x: no_such_module_here is not installed.*or leave the option out"):
        need_module("no_such_module_here", "--x")


@pytest.mark.parametrize("text", ["seed: [1", "a: b: c", "\t- x", "seed: !!python/object/apply:os.getcwd []"])
def test_malformed_yaml_is_a_sentence(tmp_path, monkeypatch, capsys, text):
    (tmp_path / "run.yaml").write_text(text)
    monkeypatch.setattr(sys, "argv", ["x", "--config", str(tmp_path / "run.yaml")])
    with pytest.raises(SystemExit) as stop, clear_errors():
        parse_arguments("x", (SupervisedArguments,), tmp_path / "run.yaml")
    assert stop.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert line.startswith("error: settings: ")


def test_no_home(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(DataError, match="no home folder: set XDG_CACHE_HOME"):
        cache_folder()


@pytest.mark.parametrize("content", [{"results": []}, {"results": {}}, [], {"results": {"v": [[1, 2]]}}])
def test_detection_files_of_another_layout(tmp_path, capsys, content):
    (tmp_path / "p.json").write_text(json.dumps(content))
    (tmp_path / "g.json").write_text(json.dumps({"database": {"v": {"subset": "test", "annotations": []}}}))
    arguments = ["--predictions", str(tmp_path / "p.json"), "--ground-truth", str(tmp_path / "g.json")]
    assert main(["evaluate-detection", *arguments, "--protocol", "activitynet"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_a_sentence(tmp_path):
    """In a process of its own: offline mode is read when the libraries are imported."""
    script = "from invert_rl.recipe.console import clear_errors\nfrom invert_rl.models import load_processor\n"
    script += "with clear_errors():\n    load_processor('nobody/no-such-model')\n"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: nobody/no-such-model: cannot be loaded"), done.stderr
