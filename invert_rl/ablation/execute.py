"""Runs the jobs of an ablation, several at a time, and survives kills: what is finished is never run again."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from filelock import lock_descriptor
from tqdm import tqdm

from data_prep.files import atomic_write
from invert_rl.ablation.jobs import IDENTITY, SUMMARY, Job, write_config
from invert_rl.ablation.recipes import RECIPES

CONSOLE = "console.log"
OUTCOME = ("mIoU", "VC", "AR", "VD")
"""Metrics told of a run that has them."""
CHECKPOINTS = ("checkpoint-*", "split_*/checkpoint-*")
"""Where a run has them; PSFTR has a folder for each split of the classes."""
POLL = 0.2
"""Seconds between two looks at the running processes."""


@dataclass
class Running:
    """A job whose recipe is running."""

    job: Job
    process: subprocess.Popen
    started: float


def execute(
    jobs: Sequence[Job], recipes: Path, parallel: int, launcher: str | None, say: Callable[[str], None]
) -> list[Job]:
    """Run the jobs that are not finished; returns those that failed.

    ``recipes`` is the folder of the recipes, ``say`` gets one line for each job that ends. A job that was
    interrupted goes on at its newest checkpoint. A job that another process is running is waited for. What a recipe
    writes goes to ``console.log`` in its run folder. When this function is left by an exception, the processes that
    it started are ended.
    """
    waiting = [job for job in jobs if not job.finished]
    failed: list[Job] = []
    running: list[Running] = []
    command = shlex.split(launcher) if launcher else [sys.executable]
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc="runs", unit="run", disable=None)
    with bar:
        try:
            while waiting or running:
                for item in [item for item in running if item.process.poll() is not None]:
                    running.remove(item)
                    bar.update(1)
                    if item.process.returncode == 0 and item.job.finished:
                        say(f"{item.job.label}: {time.perf_counter() - item.started:.0f} s{_outcome(item.job)}")
                    else:
                        failed.append(item.job)
                        say(f"{item.job.label}: FAILED (exit code {item.process.returncode}): {_last_line(item.job)}")
                for job in list(waiting):
                    if job.finished:  # by another process
                        waiting.remove(job)
                        bar.update(1)
                    elif any(other.folder == job.needs for other in failed):
                        waiting.remove(job)
                        bar.update(1)
                        failed.append(job)
                        say(f"{job.label}: not run, its start model failed")
                    elif len(running) < parallel and not any(other.folder == job.needs for other in _open(jobs)):
                        process = _start(job, jobs, recipes, command)
                        if process is not None:
                            waiting.remove(job)
                            running.append(Running(job, process, time.perf_counter()))
                bar.set_postfix_str("; ".join(item.job.label for item in running))
                time.sleep(POLL)
        finally:
            for item in running:
                os.killpg(item.process.pid, signal.SIGTERM)
            for item in running:
                item.process.wait()
    return failed


def _open(jobs: Sequence[Job]) -> list[Job]:
    return [job for job in jobs if not job.finished]


def _start(job: Job, jobs: Sequence[Job], recipes: Path, command: Sequence[str]) -> subprocess.Popen | None:
    """Start a job's recipe; None if another process has it or has finished it.

    The recipe's process inherits the lock of its folder, so that the folder stays locked for as long as it runs, also
    when this process is killed.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder.parent / f".{job.folder.name}.lock").open("a") as lock:
        if not lock_descriptor(lock.fileno(), blocking=False) or job.finished:
            return None
        options = _options(job, jobs)
        with atomic_write(job.folder / IDENTITY) as out:
            json.dump(job.identity, out, indent=1)
            out.write("\n")
        config = write_config(job, job.folder)
        words = [
            *command,
            str(recipes / job.recipe),
            "--config",
            str(config),
            "--output_dir",
            str(job.folder),
            *options,
        ]
        with (job.folder / CONSOLE).open("ab") as console:
            console.write(f"$ {shlex.join(words)}\n".encode())
            console.flush()
            return _popen(words, console, lock.fileno())


def _popen(words: Sequence[str], console: IO[bytes], lock: int) -> subprocess.Popen:
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    return subprocess.Popen(
        list(words),
        stdin=subprocess.DEVNULL,
        stdout=console,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=(lock,),
        start_new_session=True,
    )


def _options(job: Job, jobs: Sequence[Job]) -> list[str]:
    """Go on where a checkpoint is, else begin anew, with the answers before training if a sister run has them."""
    if any(path for pattern in CHECKPOINTS for path in job.folder.glob(pattern)):
        return ["--resume_from_checkpoint", "latest"]
    samples = job.folder / "samples_before.jsonl"
    sisters = [other.folder / samples.name for other in jobs if job.before and other.before == job.before]
    known = next((path.read_bytes() for path in sisters if path.is_file()), None)
    for path in job.folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if known is None:
        return []
    samples.write_bytes(known)
    return ["--before_samples", str(samples)]


def _outcome(job: Job) -> str:
    summary = json.loads((job.folder / SUMMARY).read_text(encoding="utf-8"))
    before, after = summary["before"], summary["after"]
    recipe = next((one for one in RECIPES.values() if one.script == job.recipe), RECIPES["grpo_invert"])
    shown = [name for name in (*OUTCOME, recipe.metrics[0]) if name in before and name in after]
    return "".join(
        f"  {name} {recipe.scale * before[name]:.1f} -> {recipe.scale * after[name]:.1f}"
        for name in dict.fromkeys(shown)
    )


def _last_line(job: Job) -> str:
    text = (job.folder / CONSOLE).read_text(encoding="utf-8", errors="replace").strip()
    return f"{text.splitlines()[-1][:300]} ({job.folder / CONSOLE})"
