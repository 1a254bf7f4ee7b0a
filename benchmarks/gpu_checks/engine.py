"""vLLM's log-probabilities against the trainer's, where vLLM is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu_checks.common import Skip, require


def run(rehearsal: bool) -> dict[str, Any]:
    """``benchmarks/vllm_parity.py`` for a tiny Qwen2.5-VL."""
    if find_spec("vllm") is None:
        raise Skip("vLLM is not installed")
    if rehearsal:
        raise Skip("with vLLM on a CPU run `make vllm-parity`")
    script = Path(__file__).resolve().parents[1] / "vllm_parity.py"
    command = [sys.executable, str(script), "--json", "--kind", "qwen2_5_vl"]
    found = subprocess.run(command, capture_output=True, text=True)
    require(bool(found.stdout.strip()), found.stderr[-2000:])
    result = json.loads(found.stdout.strip().splitlines()[-1])
    require(found.returncode == 0, f"largest difference {result}")
    return {"largest_difference": result["largest"], "limit": result["limit"]}
