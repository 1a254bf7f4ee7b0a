"""The demo's recipe, a few steps of it, on the GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu_checks.common import Skip, require

ROOT = Path(__file__).resolve().parents[2]


def run(rehearsal: bool) -> dict[str, Any]:
    """``recipes/grpo_invert.py`` from the shipped start checkpoint; its metrics before and after."""
    if find_spec("spacy") is None:
        raise Skip("spaCy is not installed: benchmarks/gpu_bundle.sh collects it in a bundle of its own")
    sizes = {"toy_train_clips": 8, "toy_test_clips": 1, "eval_samples": 1, "max_steps": 1}
    if not rehearsal:
        sizes = {"toy_train_clips": 200, "toy_test_clips": 20, "eval_samples": 40, "max_steps": 20}
    with tempfile.TemporaryDirectory() as folder:
        options = {"output_dir": folder, "save_strategy": "no", **sizes}
        if rehearsal:
            small = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_completion_length": 16}
            options |= {"use_cpu": "true", **small}
        command = [sys.executable, "recipes/grpo_invert.py"]
        command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "XDG_CACHE_HOME": folder, "PYTHONPATH": paths}
        found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        require(found.returncode == 0, (found.stderr or found.stdout)[-2000:])
        summary = json.loads((Path(folder) / "summary.json").read_text())
    require({"mIoU", "VC"} <= summary["after"].keys(), f"the summary lacks metrics: {summary['after']}")
    return {
        "recipe_seconds": summary["seconds"],
        "mIoU_before": round(summary["before"]["mIoU"], 1),
        "mIoU_after": round(summary["after"]["mIoU"], 1),
    }
