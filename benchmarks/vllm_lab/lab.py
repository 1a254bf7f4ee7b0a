"""A real vLLM on a CPU against the trainer: `invert-rl parity` for two tiny models, in its process and by a server.

    make vllm-lab                     # once: an environment with vLLM for CPUs, .venv-vllm
    .venv-vllm/bin/python benchmarks/vllm_lab/lab.py [--kind qwen2_5_vl] [--engine vllm] [--json]

The models have random weights, large enough that what is said depends on the video and on positions. docs/parity.md
explains the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

KINDS = ("qwen2_5_vl", "qwen3_vl")
ENGINES = ("vllm", "server")
SCALE = 8.0
"""Factor on all random weight matrices: a model with small weights says the same whatever it sees."""
LONGEST = 2048
"""Tokens of a prompt and its completion together at most, in a server."""
PORT = 8766
START = 900
"""Seconds that a server may take to start."""
PLUGIN = Path(__file__).resolve().parent / "cpu_engine.py"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "3000",
}
"""Settings of the process with the engine: one thread, 1 GiB of cache, no network."""


def save_model(folder: Path, kind: str) -> str:
    """A tiny checkpoint of ``kind`` whose answers depend on the video and on positions."""
    from invert_rl.models import never_sampled_ids
    from invert_rl.models.family import family_named
    from invert_rl.models.tiny import build_model, save_checkpoint
    from invert_rl.toy.tiny_tokenizer import build_tokenizer, toy_texts

    tokenizer = build_tokenizer(toy_texts())
    family = family_named(kind)
    processor = family.tiny_processor(tokenizer)
    model = build_model(family.tiny_config(tokenizer, hidden=64, layers=2, vision_blocks=2), seed=1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data *= SCALE
    # A trained model gives the tokens that must not be sampled next to no probability; these weights would give them
    # several percent, which the engine shares among the other tokens and the trainer does not.
    model.get_input_embeddings().weight.data[never_sampled_ids(processor)] = 0
    return str(save_checkpoint(model, processor, folder / kind))


@contextmanager
def serve(checkpoint: str) -> Iterator[str]:
    """A vLLM server of the checkpoint, as docs/vllm.md says to start it but for a CPU; gives its address."""
    options = {
        "model": checkpoint,
        "host": "127.0.0.1",
        "port": str(PORT),
        "dtype": "float32",
        "logprobs-mode": "processed_logprobs",
        "max-model-len": str(LONGEST),
        "max-num-batched-tokens": str(16 * LONGEST),  # the CPU engine stops at a seeded prompt that comes in pieces
        "worker-extension-cls": "cpu_worker.TakesWeights",
    }
    # vllm-cpu lacks the metadata that the command `vllm serve` reads its version from; this is what it runs.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--enforce-eager", "--enable-scale-out", "--no-mm-device-do-normalize"]
    command += [part for name, value in options.items() for part in (f"--{name}", value)]
    with answering(command, PORT, ENVIRONMENT) as url:
        yield url


@contextmanager
def answering(command: list[str], port: int, environment: dict[str, str]) -> Iterator[str]:
    """A server, once it answers at that port of this machine; gives its address and ends it."""
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(command, stdout=sys.stderr, env={**os.environ, **environment})
    try:
        for _ in range(START):
            try:
                urllib.request.urlopen(f"{url}/health")
                break
            except urllib.error.URLError:
                if server.poll() is not None:
                    raise RuntimeError(f"the server ended with {server.returncode}; see its messages above") from None
                time.sleep(1)
        yield url
    finally:
        server.terminate()
        server.wait()


def compare(kind: str, engine: str, folder: Path, *plugins: Path) -> dict[str, Any]:
    """What `invert-rl parity` finds for one model and one way to run vLLM, in a process of its own."""
    checkpoint = save_model(folder, kind)
    with serve(checkpoint) if engine == "server" else nullcontext("vllm") as name:
        command = [sys.executable, "-m", "invert_rl.cli", "parity", "--model", checkpoint, "--engine", name]
        command += [
            "--plugins",
            *map(str, [PLUGIN, *plugins]),
            "--cpu",
            "--json",
            "--min-pixels",
            str(64 * 64),
            "--fps",
            "2",
        ]
        done = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, text=True)
    return {"kind": kind, **json.loads(done.stdout.strip().splitlines()[-1])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--kind", choices=KINDS, nargs="*", default=KINDS, help="which models (default: both)")
    parser.add_argument("--engine", choices=ENGINES, nargs="*", default=ENGINES, help="how to run vLLM (default: both)")
    options = parser.parse_args()
    started = time.perf_counter()
    results = []
    for kind in options.kind:
        for engine in options.engine:
            with tempfile.TemporaryDirectory() as folder:
                results.append(compare(kind, engine, Path(folder)))
            if not options.json:
                found = results[-1]
                print(f"{kind} by {engine}: {found['verdict']}; {found['logps']}, noise {found['noise']}")
    ok = all(found["ok"] for found in results)
    if options.json:
        print(json.dumps({"ok": ok, "seconds": round(time.perf_counter() - started, 1), "results": results}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
