"""``kill -9`` at any moment, then ``--resume_from_checkpoint latest``: the run that was never stopped, bit for bit."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from invert_rl.checkpoints import DRAFTS
from invert_rl.toy.default import start_checkpoint

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ["--toy_train_clips", "6", "--toy_test_clips", "1", "--eval_samples", "1", "--learning_rate", "1e-3"]
SETTINGS += ["--per_device_train_batch_size", "4", "--num_generations", "4", "--max_completion_length", "48"]
SETTINGS += [
    "--lr_scheduler_type",
    "cosine",
    "--lr_scheduler_kwargs",
    "{}",
    "--logging_steps",
    "1",
    "--report_to",
    "none",
]
SETTINGS += ["--max_steps", "9", "--save_steps", "2", "--save_total_limit", "2"]
"""The shipped checkpoint, whose answers earn rewards: its weights move, and every restore counts
(tests/invert_rl/test_resume_can_fail.py)."""

Moment = Callable[[Path], bool]


def writing(run: Path) -> bool:
    """A checkpoint after the first is being written."""
    return (run / "checkpoint-2").is_dir() and (run / DRAFTS / "checkpoint-4").is_dir()


def some_time_after(name: str, seed: int) -> Moment:
    """Up to a quarter of a second after a file or folder of the run is there."""
    first: list[float] = []
    delay = random.Random(seed).uniform(0, 0.25)

    def reached(run: Path) -> bool:
        if not first and (run / name).exists():
            first.append(time.monotonic())
        return bool(first) and time.monotonic() > first[0] + delay

    return reached


MOMENTS: dict[str, Moment] = {
    "while a checkpoint is written": writing,
    "before the first checkpoint": lambda run: (run / "log.jsonl").exists(),
    "some time after the first": some_time_after("checkpoint-2", seed=1),
    "some time after the second": some_time_after("checkpoint-4", seed=2),
    "after the last": lambda run: (run / "model").is_dir(),
}


@pytest.fixture(scope="module")
def start(cache: Path) -> Callable[..., subprocess.Popen]:
    """Start a run in a folder, with more arguments if given."""
    command = [sys.executable, str(ROOT / "recipes" / "grpo_invert.py"), *SETTINGS]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}

    def popen(folder: Path, *more: str) -> subprocess.Popen:
        log = (folder.parent / f"{folder.name}.log").open("a")
        return subprocess.Popen(
            [*command, "--output_dir", str(folder), *more], env=environment, stdout=log, stderr=subprocess.STDOUT
        )

    return popen


@pytest.fixture(scope="module")
def straight(start, tmp_path_factory) -> Path:
    """The folder of the run that is never stopped."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert start(folder).wait() == 0
    before, after = (load_file(path / "model.safetensors") for path in (Path(start_checkpoint()), folder / "model"))
    moved = [name for name in after if not torch.equal(before[name], after[name])]
    assert len(moved) > len(after) / 2, "a run whose weights stay where they are proves nothing"
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_as_if_it_had_not_been(start, straight, tmp_path, moment):
    folder = tmp_path / "run"
    process = start(folder)
    deadline = time.monotonic() + 600
    while not MOMENTS[moment](folder):
        assert process.poll() is None, "the run ended before the moment came"
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    process.kill()
    process.wait()
    assert not (folder / "summary.json").exists()
    for checkpoint in folder.glob("checkpoint-*"):
        assert (checkpoint / "files.json").is_file()
    assert start(folder, "--resume_from_checkpoint", "latest").wait() == 0, (tmp_path / "run.log").read_text()[-3000:]
    first, second = (load_file(run / "model" / "model.safetensors") for run in (straight, folder))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    logs = [[json.loads(line) for line in (run / "log.jsonl").open()] for run in (straight, folder)]
    rewards = [
        [(entry["step"], entry["reward"], entry["grad_norm"]) for entry in log if "reward" in entry] for log in logs
    ]
    assert rewards[0] == rewards[1]
    summaries = [json.loads((run / "summary.json").read_text()) for run in (straight, folder)]
    for when in ("before", "after"):
        assert summaries[0][when] == summaries[1][when]
    assert {path.name for path in folder.glob("checkpoint-*")} == {path.name for path in straight.glob("checkpoint-*")}
