"""A round of GRPO with rollouts by a server: one round after the other, against one round ahead.

    python -m benchmarks.rounds_ahead [--rounds 8] [--json]                  # a stand-in server, no vLLM needed
    .venv-vllm/bin/python -m benchmarks.rounds_ahead --engine vllm [--json]  # vLLM's own, on this CPU (make vllm-lab)

The shipped toy model and config, fewer prompts a round. The stand-in takes as long for a round as the trainer for
everything else (a short serial run measures that first, ``--delay`` sets what is added to its computing), as a server
on GPUs of its own might: it shows what is overlapped, not how fast an engine is. Where its computing alone takes
longer, ``--iterations`` makes more updates of a round. vLLM on this CPU takes the trainer's cores away. Medians over
the rounds after the second; ``ratio`` is serial over ahead, from runs in turn on one server.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.vllm_lab.lab import answering, serve

ROOT = Path(__file__).resolve().parents[1]
PORT = 8767
WARM = 2
"""Rounds that are not counted: the first checks, and has nothing ahead; the second was begun late."""
PLUGINS = {"stand-in": "benchmarks/stand_in/client.py", "vllm": "benchmarks/vllm_lab/cpu_engine.py"}


@contextmanager
def server_of(engine: str, model: str, delay: float) -> Iterator[str]:
    """A server of the engine; gives its address."""
    if engine == "vllm":
        with serve(model) as url:
            yield url
        return
    command = [sys.executable, "-m", "benchmarks.stand_in.server", model, "--port", str(PORT), "--delay", str(delay)]
    with answering(command, PORT, {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}) as url:
        yield url


def train(folder: Path, engine: str, url: str, rounds_ahead: int, *options: str) -> list[dict[str, Any]]:
    """The log of a run of the recipe, a line a step."""
    output = folder / f"{rounds_ahead}-{time.monotonic_ns()}"
    command = [sys.executable, str(ROOT / "recipes" / "grpo_invert.py"), "--output_dir", str(output)]
    command += ["--plugins", str(ROOT / PLUGINS[engine]), "--use_vllm", "true", "--vllm_mode", "server"]
    command += ["--vllm_server_base_url", url, "--rounds_ahead", str(rounds_ahead), "--logging_steps", "1"]
    command += ["--report_to", "none", "--save_strategy", "no", "--log_completions", "false", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the run ended with {done.returncode}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def round_seconds(log: list[dict[str, Any]], iterations: int) -> dict[str, float]:
    """Medians of the counted rounds: all of it, and what of it was spent waiting for completions."""
    counted = [entry for entry in log if "step_time" in entry and entry["step"] > WARM * iterations]
    rounds = [counted[at : at + iterations] for at in range(0, len(counted), iterations)]
    names = {"round": "step_time", "rollout": "time/rollout"}
    return {
        name: statistics.median(sum(entry.get(key, 0.0) for entry in steps) for steps in rounds)
        for name, key in names.items()
    }


def compare(engine: str, rounds: int, delay: float | None, group: int, prompts: int, iterations: int) -> dict[str, Any]:
    """Seconds of a round of serial runs and runs that are one round ahead, in turn, and their ratio."""
    from invert_rl.toy.default import start_checkpoint

    model = start_checkpoint()
    shape = ["--per_device_train_batch_size", str(group * prompts), "--num_generations", str(group)]
    shape += ["--tasks", "tvg", "--tvg_probability", "1.0", "--toy_train_clips", "64", "--toy_test_clips", "1"]
    shape += ["--eval_samples", "0", "--warmup_steps", "1", "--lr_scheduler_kwargs", '{"num_decay_steps": 1}']
    shape += ["--num_iterations", str(iterations)]

    def measure(url: str, ahead: int, counted: int) -> dict[str, float]:
        steps = str((counted + WARM) * iterations)
        return round_seconds(train(folder, engine, url, ahead, *shape, "--max_steps", steps), iterations)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if engine == "stand-in" and delay is None:
            with server_of(engine, model, 0.0) as url:
                alone = measure(url, 0, 3)
            delay = round(max(0.1, alone["round"] - 2 * alone["rollout"]), 2)
        with server_of(engine, model, delay or 0.0) as url:
            runs = [(ahead, measure(url, ahead, rounds)) for ahead in (0, 1, 1, 0)]
    serial, one = (
        {name: statistics.mean(found[name] for at, found in runs if at == ahead) for name in ("round", "rollout")}
        for ahead in (0, 1)
    )
    return {
        "benchmark": "a round of GRPO, rounds_ahead 1 against 0",
        "engine": engine if engine == "vllm" else f"stand-in that takes {delay:g} s more for each round",
        "prompts": prompts,
        "completions": group,
        "iterations": iterations,
        "rounds": rounds,
        "seconds": {"serial": round(serial["round"], 3), "ahead": round(one["round"], 3)},
        "waiting_for_completions": {"serial": round(serial["rollout"], 3), "ahead": round(one["rollout"], 3)},
        "runs": [{"rounds_ahead": ahead, "round": round(found["round"], 3)} for ahead, found in runs],
        "ratio": round(serial["round"] / one["round"], 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=list(PLUGINS), default="stand-in")
    parser.add_argument("--rounds", type=int, default=8, help="counted rounds of each run")
    parser.add_argument("--delay", type=float, help="seconds that the stand-in takes for a round besides computing")
    parser.add_argument("--group", type=int, default=8, help="completions of a prompt")
    parser.add_argument("--prompts", type=int, default=4, help="prompts of a round")
    parser.add_argument("--iterations", type=int, default=1, help="updates made of a round (num_iterations)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    shape = (options.group, options.prompts, options.iterations)
    found = compare(options.engine, options.rounds, options.delay, *shape)
    if options.json:
        print(json.dumps(found))
    else:
        print(
            f"{found['engine']}: a round takes {found['seconds']['serial']} s in turn, {found['seconds']['ahead']} s "
            f"one round ahead: {found['ratio']} times less; waiting {found['waiting_for_completions']}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
