"""vLLM's log-probabilities against the trainer's, where vLLM is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from benchmarks.gpu_checks.common import Skip, require


def run(rehearsal: bool) -> dict[str, Any]:
    """``invert-rl parity --engine vllm`` for the shipped tiny model, in bfloat16."""
    if find_spec("vllm") is None:
        raise Skip("vLLM is not installed")
    if rehearsal:
        raise Skip("with vLLM on a CPU run `make vllm-parity`")
    command = [sys.executable, "-m", "invert_rl.cli", "parity", "--engine", "vllm", "--json"]
    found = subprocess.run(command, capture_output=True, text=True)
    require(bool(found.stdout.strip()), found.stderr[-2000:])
    result = json.loads(found.stdout.strip().splitlines()[-1])
    require(found.returncode == 0, result["verdict"])
    return {name: result[name] for name in ("verdict", "engine", "noise", "logps")}
