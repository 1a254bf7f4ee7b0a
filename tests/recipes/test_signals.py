"""Signals at one and two ranks, to launchers and to ranks: a checkpoint is left, no process is, and the run goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from invert_rl.resume import why_incomplete

ROOT = Path(__file__).resolve().parents[2]
RUN = ["--toy_train_clips", "6", "--toy_test_clips", "1", "--eval_samples", "1", "--learning_rate", "1e-3"]
RUN += [
    "--num_generations",
    "4",
    "--max_completion_length",
    "48",
    "--lr_scheduler_type",
    "cosine",
    "--lr_scheduler_kwargs",
    "{}",
    "--logging_steps",
]
RUN += ["1", "--report_to", "none", "--max_steps", "6", "--save_steps", "50"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
LAUNCHERS: dict[str, list[str]] = {
    "python": [],
    "accelerate": ["-m", "accelerate.commands.launch"],
    "torchrun": TORCHRUN,
}


def start(launcher: str, folder: Path, cache: Path, *more: str) -> subprocess.Popen:
    words = [sys.executable, *LAUNCHERS[launcher], str(ROOT / "recipes" / "grpo_invert.py"), *RUN, *more]
    words += ["--per_device_train_batch_size", "2" if launcher == "torchrun" else "4", "--output_dir", str(folder)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = "300"
    log = (folder.parent / f"{folder.name}.log").open("a")
    return subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT)


def processes_of(folder: Path) -> list[int]:
    """Ids of the processes whose command line names a run folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if str(folder) in words:
            found.append(int(path.parent.name))
    return found


def wait_for(condition, what: str, limit: float = 900) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


CASES = {
    "SIGTERM": ("python", signal.SIGTERM, "launcher", 143),
    "SIGUSR1": ("python", signal.SIGUSR1, "launcher", 143),
    "Ctrl-C": ("python", signal.SIGINT, "launcher", 130),
    "SIGTERM to accelerate launch": ("accelerate", signal.SIGTERM, "launcher", None),
    "kill -9 of accelerate launch": ("accelerate", signal.SIGKILL, "launcher", None),
    "SIGTERM to torchrun": ("torchrun", signal.SIGTERM, "launcher", None),
    "kill -9 of torchrun": ("torchrun", signal.SIGKILL, "launcher", None),
    "SIGUSR1 to one rank": ("torchrun", signal.SIGUSR1, "rank", None),
}


@pytest.fixture(scope="module")
def straight(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert start("python", folder, cache).wait() == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_signal_leaves_a_checkpoint_and_no_process(cache, straight, tmp_path, case):
    launcher, number, whom, code = CASES[case]
    folder = tmp_path / "run"
    process = start(launcher, folder, cache)
    log = folder / "log.jsonl"
    wait_for(lambda: process.poll() is not None or (log.exists() and log.read_text().count("\n") >= 2), "no step")
    time.sleep(random.Random(case).uniform(0, 0.5))
    target = process.pid if whom == "launcher" else max(processes_of(folder))
    os.kill(target, number)
    ended = process.wait(timeout=900)
    assert code is None or ended == code
    wait_for(lambda: not processes_of(folder), "a process was left")
    text = (tmp_path / "run.log").read_text()
    assert "stopped by SIG" in text, text[-3000:]
    assert launcher != "python" or "Traceback" not in text
    (checkpoint,) = folder.glob("checkpoint-*")
    assert why_incomplete(checkpoint) is None
    assert not (folder / "summary.json").exists()
    assert start(launcher, folder, cache, "--resume_from_checkpoint", "auto").wait() == 0, text[-3000:]
    first, second = (load_file(run / "model" / "model.safetensors") for run in (straight, folder))
    gap = max((first[name] - second[name]).abs().max().item() for name in first)
    assert gap == 0.0 if launcher != "torchrun" else gap < 1e-4  # two ranks add in another order
    assert json.loads((folder / "summary.json").read_text())["after"].keys() >= {"mIoU"}


@pytest.mark.slow
def test_a_second_signal_ends_at_once(cache, tmp_path):
    folder = tmp_path / "run"
    process = start("python", folder, cache)
    log = folder / "log.jsonl"
    wait_for(lambda: process.poll() is not None or (log.exists() and log.read_text().count("\n") >= 1), "no step")
    process.send_signal(signal.SIGSTOP)  # so that the step cannot end between the two
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    time.sleep(0.4)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert "ended by a second signal" in (tmp_path / "run.log").read_text() or list(folder.glob("checkpoint-*"))


@pytest.mark.slow
def test_two_default_runs_at_once_get_two_folders(cache, tmp_path):
    words = [sys.executable, str(ROOT / "recipes" / "grpo_invert.py"), *RUN, "--per_device_train_batch_size", "4"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen([*words, "--max_steps", "1"], cwd=tmp_path, env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    folders = sorted((tmp_path / "runs").iterdir())
    assert [folder.name for folder in folders] == ["grpo_invert_001", "grpo_invert_002"]
    models = [load_file(folder / "model" / "model.safetensors") for folder in folders]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
