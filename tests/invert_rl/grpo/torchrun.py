"""Start two_ranks.py on CPU ranks with torchrun and gloo, with a hard time limit, and read what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SCRIPT = Path(__file__).with_name("two_ranks.py")

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Rank:
    """What one rank saw in one job."""

    rounds: list[dict[str, Any]]
    """Tasks, ids, completions and rewards of each round that was scored."""
    metrics: dict[str, Any]
    """Before, during and after, where the job validates."""
    left_out: dict[str, str]
    replaced: list[float]
    wrapped: str
    kl: list[float]
    """Of each step, where the run has a reference model."""
    reference_units: list[str]
    """Modules of the reference model that FSDP2 gathers one at a time."""
    optimizer_dtypes: list[str]
    """Of the moments that the optimizer keeps for each weight."""
    error: str | None
    start: Weights
    end: Weights


def run_ranks(folder: Path, jobs: Sequence[dict[str, Any]], processes: int = 2, timeout: float = 600) -> str:
    """Run jobs of two_ranks.py and return what they wrote to stderr.

    Raises `subprocess.TimeoutExpired` where it hangs and `AssertionError` where it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    description = folder / "jobs.json"
    description.write_text(json.dumps(list(jobs), default=str))
    launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--rdzv_backend=c10d"]
    result = subprocess.run(
        [*launch, "--rdzv_endpoint=localhost:0", str(SCRIPT), str(description)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert result.returncode == 0, result.stderr[-6000:]
    return result.stderr


def read_ranks(output: Path, processes: int = 2) -> list[Rank]:
    """What each rank of a job saw."""
    ranks = []
    for number in range(processes):
        seen = json.loads((output / f"rank{number}.json").read_text())
        ranks.append(Rank(**seen, **torch.load(output / f"weights{number}.pt", weights_only=True)))
    return ranks


def distance(a: Weights, b: Weights) -> float:
    """The largest difference between two sets of weights with the same names."""
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)
