"""``invert-rl doctor``: versions, verb pipeline, decoder, vLLM and GPU, and what is missing for which use."""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rewards.errors import RewardError
from rewards.score import describe_pipeline

PACKAGES = ("torch", "torchvision", "transformers", "trl", "accelerate", "peft", "datasets", "spacy", "av")
OPTIONAL = ("vllm", "deepspeed", "torchcodec", "wandb")

SCORES = ("exact", "precision", "recall", "f1")
"""Scores of a verb pipeline that are shown where its training recorded them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--json`` and the pipeline to look at."""
    parser.add_argument("--json", action="store_true", help="one JSON object for machines")
    parser.add_argument(
        "--verb-pipeline", "--pipeline", dest="pipeline", help="verb pipeline to load; default: the shipped one"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what is there; exit code 1 if the verb pipeline cannot be loaded or the decoder is missing."""
    found = report(arguments.pipeline)
    if arguments.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        for name, value in found.items():
            if name != "problems":
                text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
                sys.stdout.write(f"{name:14} {text}\n")
        for problem in found["problems"]:
            sys.stdout.write(f"problem        {problem}\n")
    return 1 if found["problems"] else 0


def report(pipeline_name: str | None = None) -> dict[str, Any]:
    """Everything that the command prints, as one dictionary; ``problems`` is a list of sentences."""
    problems: list[str] = []
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": {name: _version(name) or "missing" for name in PACKAGES},
        "optional": {name: _version(name) or "not installed" for name in OPTIONAL},
    }
    try:
        pipeline = describe_pipeline(pipeline_name)
        scores = ", ".join(f"{name} {value:.3f}" for name, value in (pipeline["score"] or {}).items() if name in SCORES)
        found["verb pipeline"] = f"{pipeline['name']} {pipeline['version']} ({scores or 'no score recorded'})"
    except RewardError as error:
        found["verb pipeline"] = "none"
        problems.append(str(error))
    found["decoder"] = _decoder(problems)
    found["gpu"] = _gpus()
    found["rollouts"] = "vLLM or transformers" if importlib.util.find_spec("vllm") else "transformers (vllm missing)"
    found["problems"] = problems
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _decoder(problems: list[str]) -> str:
    try:
        import av
    except ImportError as error:
        problems.append(f"PyAV cannot be imported ({error}): no video can be read; reinstall the package av")
        return "none"
    wanted = ("h264", "hevc", "vp9", "libdav1d", "mpeg4")
    missing = [name for name in wanted if name not in av.codecs_available]
    if missing:
        problems.append(f"PyAV {av.__version__} lacks the codecs {', '.join(missing)}")
    return f"PyAV {av.__version__} with {', '.join(name for name in wanted if name not in missing)}"


def _gpus() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none, CPU only"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(names)
