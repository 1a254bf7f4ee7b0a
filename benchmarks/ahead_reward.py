"""Does a run one round ahead earn what a serial one earns? Reward curves on the toy world, same rows, several seeds.

    python -m benchmarks.ahead_reward [--seeds 3] [--steps 30] [--json]

Rollouts come from the stand-in server (transformers behind vLLM's routes, weights pushed over HTTP), in this process.
Both arms of a seed draw the same rows; ``difference`` is the mean over seeds of ahead less serial, in the reward of the
last third of the steps, with its standard error.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from benchmarks.stand_in import client  # noqa: F401 - has the trainer ask a stand-in
from benchmarks.stand_in.server import Policy, Routes
from data_prep.rows import read_rows
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.grpo.rewards import reward_functions
from invert_rl.grpo.trainer import InvertGRPOTrainer
from invert_rl.models import load_model, load_processor
from invert_rl.tasks.rewards import reward_weights
from invert_rl.toy.default import GRPO_SEED, start_checkpoint, toy_world
from invert_rl.video.store import FrameStore

SETTINGS: dict[str, Any] = {
    "tasks": ["tvg"],
    "tvg_probability": 1.0,
    "num_generations": 8,
    "max_completion_length": 40,
    "temperature": 0.6,
    "loss_type": "dr_grpo",
    "beta": 0.0,
    "learning_rate": 3e-4,
    "warmup_steps": 3,
    "lr_scheduler_type": "constant_with_warmup",
    "freeze_vision": True,
    "vision_memory_mb": 256,
    "fps": 2.0,
    "min_pixels": 3136,
    "max_pixels": 6272,
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "use_vllm": True,
    "vllm_mode": "server",
}


def curve(folder: Path, seed: int, rounds_ahead: int, steps: int, prompts: int, clips: int) -> dict[str, list[float]]:
    """Reward and staleness of each step of one run."""
    world, model = toy_world(GRPO_SEED, clips, 1), start_checkpoint()
    Routes.policy = Policy(model, 0.0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Routes)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    args = InvertGRPOConfig(
        **SETTINGS,
        output_dir=str(folder / f"{seed}-{rounds_ahead}"),
        seed=seed,
        max_steps=steps,
        rounds_ahead=rounds_ahead,
        per_device_train_batch_size=prompts * SETTINGS["num_generations"],
        vllm_server_base_url=f"http://127.0.0.1:{server.server_port}",
    )
    Path(args.output_dir).mkdir()
    preset, rows, processor = args.preset(), read_rows(world.train), load_processor(model)
    weights = reward_weights(args.rewards, preset.only(args.tasks).tasks)
    frames = args.frame_settings(processor.video_processor.patch_size)
    trainer = InvertGRPOTrainer(
        model=load_model(model),
        rows=rows,
        reward_funcs=reward_functions(args, preset, weights, None, rows),
        args=args,
        processing_class=processor,
        store=FrameStore(world.videos, frames, in_process=True),
        preset=preset,
    )
    try:
        trainer.train()
    finally:
        server.shutdown()
        server.server_close()
    log = [entry for entry in trainer.state.log_history if "reward" in entry]
    return {
        "reward": [entry["reward"] for entry in log],
        "staleness": [entry.get("rollout/staleness", 0.0) for entry in log],
        "ratio": [entry["sampling/importance_sampling_ratio/mean"] for entry in log],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--prompts", type=int, default=4, help="prompts of a round, of 8 completions each")
    parser.add_argument("--clips", type=int, default=800, help="training clips of the toy world")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for ahead in (0, 1):
                found = curve(Path(folder), seed, ahead, options.steps, options.prompts, options.clips)
                runs.append({"seed": seed, "rounds_ahead": ahead, **found})
                sys.stderr.write(json.dumps(runs[-1]) + "\n")
    third = max(1, options.steps // 3)
    last = {(run["seed"], run["rounds_ahead"]): statistics.mean(run["reward"][-third:]) for run in runs}
    first = {(run["seed"], run["rounds_ahead"]): statistics.mean(run["reward"][:third]) for run in runs}
    differences = [last[seed, 1] - last[seed, 0] for seed in range(options.seeds)]
    error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else None
    summary = {
        "benchmark": "reward one round ahead against serial, toy world, stand-in server",
        "seeds": options.seeds,
        "steps": options.steps,
        "prompts": options.prompts,
        "first_third": {
            ahead: statistics.mean(first[seed, ahead] for seed in range(options.seeds)) for ahead in (0, 1)
        },
        "last_third": {ahead: statistics.mean(last[seed, ahead] for seed in range(options.seeds)) for ahead in (0, 1)},
        "differences": differences,
        "difference": statistics.mean(differences),
        "standard_error": error,
    }
    if options.json:
        print(json.dumps(summary))
    else:
        serial, ahead = summary["last_third"].values()
        print(f"reward of the last {third} of {options.steps} steps: serial {serial:.3f}, one round ahead {ahead:.3f}")
        print(f"by seed: {[round(value, 3) for value in differences]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
