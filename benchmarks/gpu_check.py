"""Does this library do on this GPU what its tests show on CPUs, and how fast?

    make gpu-check                                        # python benchmarks/gpu_check.py --out gpu_check
    python benchmarks/gpu_check.py --out DIR [--only packed step …] [--cpu-rehearsal] [--json]

Independent checks, each in a process of its own with its own time limit; DIR/gpu_check.json is written anew after each
and holds all so far, DIR/gpu_check.md is the same as a table. All of it may take nine minutes, no more.
No network and no checkpoint is needed: weights are random, videos generated. --cpu-rehearsal runs every check at a tiny
shape in one process, to know before a GPU is at hand that nothing is missing. What needs a package that is not there
(bitsandbytes, vLLM, spaCy) is skipped with that reason. Exit code 1 if a check failed or ran out of time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

# The folder of the packages, so that the checks are found however this file is started.
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

CHECKS = {
    "masters": 60,
    "attention": 60,
    "tower": 60,
    "packed": 150,
    "step": 150,
    "adapters": 90,
    "toy": 120,
    "engine": 120,
}
"""Seconds that each check may take: a module of `benchmarks.gpu_checks` with ``run(rehearsal) -> dict``."""
ALL_OF_IT = 530
"""Seconds for all of them together; a check that finds less than `LEAST` left is skipped."""
LEAST = 15


def machine() -> dict[str, Any]:
    """What the checks run on."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    found: dict[str, Any] = {"python": platform.python_version(), "device": "cpu"}
    for name in ("torch", "transformers", "trl", "accelerate", "peft", "vllm", "bitsandbytes", "spacy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["device"] = properties.name
        found["memory_gib"] = round(properties.total_memory / 2**30, 1)
    return found


def run_here(name: str, rehearsal: bool) -> dict[str, Any]:
    """One check in this process: its numbers with ``status`` ok, failed or skipped."""
    from benchmarks.gpu_checks.common import Skip

    started = time.perf_counter()
    try:
        found = {"status": "ok", **importlib.import_module(f"benchmarks.gpu_checks.{name}").run(rehearsal)}
    except Skip as reason:
        found = {"status": "skipped", "why": str(reason)}
    except Exception as error:  # a check that fails in whatever way is a finding, and the others go on
        found = {"status": "failed", "why": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-4000:]}
    return {**found, "seconds": round(time.perf_counter() - started, 1)}


def run_limited(command: list[str], limit: float, answer: Path) -> dict[str, Any]:
    """A check in a process group of its own, which is killed whole after ``limit`` seconds; it writes ``answer``."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=messages, stderr=subprocess.STDOUT, start_new_session=True, text=True
        )
        found: dict[str, Any]
        try:
            code = process.wait(limit)
            found = {"status": "failed", "why": f"its process ended with code {code}"}
        except subprocess.TimeoutExpired:
            found = {"status": "timeout", "why": f"not done within {limit:.0f} s"}
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it has left running, too
        process.wait()
        if answer.is_file():
            return json.loads(answer.read_text())
        messages.seek(0)
        return {**found, "trace": messages.read()[-4000:], "seconds": round(time.perf_counter() - started, 1)}


def write(out: Path, results: dict[str, Any]) -> None:
    """Both files, whole or not at all."""
    from data_prep.files import atomic_write

    with atomic_write(out / "gpu_check.json") as file:
        json.dump(results, file, indent=1)
    with atomic_write(out / "gpu_check.md") as file:
        file.write(table(results))


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    found = results["machine"]
    lines = [", ".join(f"{name} {value}" for name, value in found.items() if value is not None), ""]
    lines += ["| check | status | seconds | found |", "|---|---|---|---|"]
    for name, check in results["checks"].items():
        hidden = ("status", "seconds", "trace")
        numbers = ", ".join(f"{key} {value}" for key, value in check.items() if key not in hidden)
        lines.append(f"| {name} | {check['status']} | {check['seconds']} | {' '.join(numbers.split())} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the checks; 0 if none failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), metavar="DIR", help="folder for the results")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS), help="default: all")
    parser.add_argument("--cpu-rehearsal", action="store_true", help="every check at a tiny shape, on a CPU")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)  # a check's process writes here
    options = parser.parse_args()
    if options.write is not None:
        options.write.write_text(json.dumps(run_here(options.only[0], options.cpu_rehearsal)))
        return 0
    if options.cpu_rehearsal:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine(), "rehearsal": options.cpu_rehearsal, "checks": {}}
    if results["machine"]["device"] == "cpu" and not options.cpu_rehearsal:
        sys.stderr.write("error: no GPU here; --cpu-rehearsal runs the checks at tiny shapes on a CPU\n")
        return 1
    started = time.perf_counter()
    for name in options.only:
        left = ALL_OF_IT - (time.perf_counter() - started)
        if left < LEAST:
            check = {"status": "skipped", "why": "no time left", "seconds": 0.0}
        elif options.cpu_rehearsal:
            check = run_here(name, rehearsal=True)
        else:
            with tempfile.TemporaryDirectory() as folder:
                answer = Path(folder) / "answer.json"
                command = [sys.executable, __file__, "--only", name, "--write", str(answer)]
                check = run_limited(command, min(CHECKS[name], left), answer)
        results["checks"][name] = check
        results["seconds"] = round(time.perf_counter() - started, 1)
        write(options.out, results)
        if not options.json:
            sys.stdout.write(f"{name}: {check['status']} ({check['seconds']} s) {check.get('why', '')}\n")
            sys.stdout.flush()
    bad = [name for name, check in results["checks"].items() if check["status"] in ("failed", "timeout")]
    results["failed"] = bad
    write(options.out, results)
    sys.stdout.write(json.dumps(results) + "\n" if options.json else table(results))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
