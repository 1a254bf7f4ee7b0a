"""`make gpu-check` rehearsed on a CPU: every check runs, and one that hangs or fails does not stop the others."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_checks import toy
from invert_rl.grpo import packed_attention

ROOT = Path(__file__).resolve().parents[1]
CHEAP = [name for name in gpu_check.CHECKS if name != "toy"]


def rehearse(out: Path, names: list[str]) -> dict:
    command = [sys.executable, "benchmarks/gpu_check.py", "--cpu-rehearsal", "--out", str(out), "--only", *names]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    results = json.loads((out / "gpu_check.json").read_text())
    assert found.returncode == 0, (found.stderr[-2000:], results)
    return results


def test_every_check_runs_on_a_cpu(tmp_path):
    results = rehearse(tmp_path, CHEAP)
    status = {name: check["status"] for name, check in results["checks"].items()}
    assert status.pop("engine") in ("skipped", "ok")
    assert set(status.values()) == {"ok"} and list(status) == [name for name in CHEAP if name != "engine"]
    assert results["checks"]["step"]["planned_gib"] > 0.9 and results["checks"]["masters"]["moved"] > 0.9
    table = (tmp_path / "gpu_check.md").read_text()
    assert all(f"| {name} |" in table for name in CHEAP)


@pytest.mark.slow
def test_the_recipe_is_rehearsed_too(tmp_path):
    assert rehearse(tmp_path, ["toy"])["checks"]["toy"]["status"] == "ok"


def test_all_of_it_stays_under_nine_minutes():
    assert gpu_check.ALL_OF_IT < 540
    assert all((ROOT / "benchmarks" / "gpu_checks" / f"{name}.py").is_file() for name in gpu_check.CHECKS)


def test_a_check_that_hangs_is_stopped_with_what_it_started(tmp_path):
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    started = time.perf_counter()
    found = gpu_check.run_limited([sys.executable, "-c", code + "time.sleep(60)"], 2.0, tmp_path / "none.json")
    assert found["status"] == "timeout" and time.perf_counter() - started < 20


def test_a_check_that_dies_tells_its_last_words(tmp_path):
    found = gpu_check.run_limited(
        [sys.executable, "-c", "raise SystemExit('no such kernel')"], 30, tmp_path / "none.json"
    )
    assert found["status"] == "failed" and "no such kernel" in found["trace"]


def test_a_check_that_fails_is_a_finding(monkeypatch):
    """Kernels that let completions see nothing of their prompt."""
    monkeypatch.setattr(
        packed_attention, "_cascade", lambda query, key, value, *_args: query * key.mean() * value.mean()
    )
    found = gpu_check.run_here("attention", rehearsal=True)
    assert found["status"] == "failed" and "merged kernels are off" in found["why"]


def test_a_check_without_its_package_is_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr(toy, "find_spec", lambda name: None)
    found = gpu_check.run_here("toy", rehearsal=True)
    assert found["status"] == "skipped" and "spaCy" in found["why"]


def test_weights_that_stay_are_a_finding(monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    found = gpu_check.run_here("masters", rehearsal=True)
    assert found["status"] == "failed" and "moved" in found["why"]


def test_without_a_gpu_it_says_what_to_do(tmp_path):
    command = [sys.executable, "benchmarks/gpu_check.py", "--out", str(tmp_path)]
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1 and "--cpu-rehearsal" in found.stderr
