"""``invert-rl plan``: memory and time of a GRPO run from its config files, before anything is loaded."""

from __future__ import annotations

import argparse
import json
import sys

from invert_rl.plan.gpus import GPUS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Config, model, launch and GPU."""
    parser.add_argument("--config", help="YAML of recipes/grpo_invert.py; default: its defaults")
    parser.add_argument("--model_name_or_path", help="checkpoint; a folder with its config.json is enough")
    parser.add_argument(
        "--launch",
        metavar="YAML",
        help="config of accelerate launch, such as recipes/configs/accelerate/8gpu_fsdp2.yaml",
    )
    parser.add_argument("--gpu", choices=list(GPUS), default="h100", help="kind of GPU (default: h100)")
    parser.add_argument("--memory", type=_positive, metavar="GB", help="its memory, GiB; default: that of --gpu")
    parser.add_argument("--data", metavar="ROWS", help="JSONL rows whose prompts are counted; default: videos of 30 s")
    parser.add_argument("--json", action="store_true", help="one JSON object for machines")
    parser.add_argument(
        "settings", nargs="*", metavar="-- --NAME VALUE", help="settings of the recipe that win over --config"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; exit code 1 if the run does not fit."""
    from data_prep.rows import read_rows
    from invert_rl.plan.job import read_job, read_launch
    from invert_rl.plan.memory import GIB
    from invert_rl.plan.plan import plan_of

    job = read_job(arguments.config, read_launch(arguments.launch), arguments.model_name_or_path, arguments.settings)
    rows = read_rows(arguments.data) if arguments.data else ()
    capacity = None if arguments.memory is None else arguments.memory * GIB
    plan = plan_of(job, GPUS[arguments.gpu], rows, capacity)
    found = plan.as_json()
    if arguments.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        _write(found, arguments)
    return 0 if plan.fits else 1


def _write(found: dict, arguments: argparse.Namespace) -> None:
    out = sys.stdout.write
    launch = found["launch"]
    out(
        f"{found['model']} ({found['family']}, {found['parameters'] / 1e9:.2f} billion parameters, "
        f"{found['trained_parameters'] / 1e9:.3f} trained), {launch['kind']} on {launch['processes']} GPU"
        f"{'s' * (launch['processes'] > 1)}\n"
    )
    tokens = found["prompt_tokens"]
    source = f"{tokens['rows']} rows" if arguments.data else "videos of 30 s"
    out(f"prompts of {source}: {tokens['mean']:.0f} tokens on average, {tokens['longest']} at most\n\n")
    out(f"{'on each GPU':34}{'GiB':>9}{'GB':>9}\n")
    for name, value in found["per_gpu_gib"].items():
        out(f"{_plain(name):34}{value:9.2f}{found['per_gpu_gb'][name]:9.2f}\n")
    phases = ", ".join(f"{name} {value:.1f}" for name, value in found["phases_gib"].items())
    out(f"state is weights, gradients, optimizer and buckets; phases add {phases} GiB, of which the largest counts\n\n")
    out("in each machine's memory, GiB: ")
    out(", ".join(f"{_plain(name)} {value:.1f}" for name, value in found["host_gib"].items()) + "\n\n")
    out(f"{'one optimizer step on each GPU':34}{'TFLOP':>9}{'s':>9}\n")
    for name, value in found["step_seconds"].items():
        work = found["tera_operations"].get(name)
        out(f"{_plain(name):34}{'' if work is None else f'{work:.1f}':>9}{value:9.2f}\n")
    out("seconds are estimates with completions as long as they may be; nothing of this was measured\n\n")
    for problem in found["problems"]:
        out(f"does not fit: {problem}\n")
    for change in found["changes"]:
        out(f"change: {change}\n")
    if found["fits"]:
        out("fits\n")


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be a positive number of GiB, found {text}")
    return value
