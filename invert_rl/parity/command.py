"""``invert-rl parity``: does an engine compute what the trainer computes? A doctor for any stack."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import DataError
from data_prep.rows import Row, read_rows, split_windows
from invert_rl.errors import need_module
from invert_rl.video.options import add_frame_arguments, frame_options

if TYPE_CHECKING:
    from transformers import ProcessorMixin

    from invert_rl.encoding import EncodedPrompt
    from invert_rl.parity.doctor import Findings
    from invert_rl.parity.engines import Engine
    from invert_rl.parity.reference import Reference

FAULTS = (
    *("placeholders", "frame_times", "stock_positions", "half_precision", "banned_tokens", "raw_logprobs"),
    *("stale_weights", "stale_prefix", "stale_vision"),
)
"""Of `invert_rl.parity.transformers_engine`, which imports torch."""
TASKS = ("tvg", "ar", "vd")
"""Whole videos and parts of them; these need no verbs."""
TOY_SEED = 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl parity``."""
    parser.description = (
        "Compare an engine with the trainer on the same rows: prompts, frame times, positions, log-probabilities, "
        "before and after a change of weights. Exit code 0: they agree; 1: they do not, or could not be compared."
    )
    parser.add_argument("--model", metavar="M", help="checkpoint; default: the shipped tiny one")
    parser.add_argument("--revision", help="of a hub checkpoint")
    parser.add_argument(
        "--engine",
        default="transformers",
        metavar="E",
        help="transformers, vllm (in this process), or the address of a vLLM server; default: %(default)s",
    )
    parser.add_argument("--url", metavar="U", help="address of a vLLM server: the same as --engine U")
    parser.add_argument("--data", type=Path, metavar="DATA.jsonl", help="rows; default: a small toy world")
    parser.add_argument("--videos", type=Path, metavar="DIR", help="folder of the rows' videos")
    parser.add_argument("--rows", type=int, default=4, metavar="N", help="rows to compare; default: %(default)s")
    parser.add_argument("--completions", type=int, default=2, metavar="G", help="of each row; default: %(default)s")
    parser.add_argument("--max-new-tokens", type=int, default=16, help="of a completion; default: %(default)s")
    parser.add_argument("--temperature", type=float, default=0.9, help="of sampling; default: %(default)s")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "bfloat16", "float16", "float32"),
        help="in which training computes; default: bfloat16 on a GPU, else float32",
    )
    parser.add_argument("--keep-weights", action="store_true", help="do not change weights, nor push any to the engine")
    parser.add_argument(
        "--fault", choices=FAULTS, help="break --engine transformers on purpose, to see that it is found"
    )
    parser.add_argument(
        "--gpu-memory-utilization", type=float, default=0.3, help="of vLLM in this process; default: %(default)s"
    )
    parser.add_argument("--plugins", nargs="+", default=[], metavar="P", help="files or modules to import first")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    add_frame_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Compare and print; 0 if engine and trainer agree. Raises `DataError` for bad input."""
    started = time.perf_counter()
    _check(args)
    import torch
    from transformers.utils.logging import disable_progress_bar

    from invert_rl.grpo.vllm_server import ServerError
    from invert_rl.models import CheckpointError, adapter_of, load_model, load_processor, never_sampled_ids
    from invert_rl.parity.checks import Check
    from invert_rl.parity.doctor import Doctor, Findings
    from invert_rl.parity.reference import Reference
    from invert_rl.toy.default import start_checkpoint

    disable_progress_bar()
    args.model = args.model or start_checkpoint()
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    dtype = getattr(torch, args.dtype if args.dtype != "auto" else {"cpu": "float32"}.get(device.type, "bfloat16"))
    if adapter_of(args.model, args.revision) is not None:
        raise DataError(f"--model {args.model} is an adapter: merge it first with `invert-rl merge`")
    try:
        processor = load_processor(args.model, args.revision)
        model = load_model(args.model, args.revision, dtype="float32").to(device)
    except (CheckpointError, OSError, ValueError) as error:
        raise DataError(f"--model {args.model}: {error}") from error
    reference = Reference(model, never_sampled_ids(processor), args.temperature, dtype)
    engine = None
    with tempfile.TemporaryDirectory() as folder:
        prompts, left_out = encode(args, processor, reference, Path(folder))
        try:
            engine = build_engine(args, processor, reference, Path(folder), len(prompts) * args.completions)
            doctor = Doctor(engine, reference, processor, prompts, args.completions, args.max_new_tokens)
            found = doctor.examine(not args.keep_weights)
        except ServerError as error:
            found = Findings([Check("server", False, None, None, str(error))])
        finally:
            if engine is not None:
                engine.close()
    ok = all(check.ok for check in found.checks)
    result = {
        "ok": ok,
        "verdict": found.verdict,
        "model": args.model,
        "engine": {} if engine is None else engine.about,
        "rows": len(prompts),
        "rows_left_out": left_out,
        "checks": [check.record() for check in found.checks],
        "not_checked": found.left_out,
        "noise": found.noise,
        "logps": found.logps,
        "seconds": round(time.perf_counter() - started, 1),
    }
    sys.stdout.write(json.dumps(result) + "\n" if args.json else as_text(result, found))
    return 0 if ok else 1


def encode(
    args: argparse.Namespace, processor: ProcessorMixin, reference: Reference, folder: Path
) -> tuple[list[EncodedPrompt], int]:
    """Prompts of the first rows that can be used, and how many could not; raises `DataError` where none can."""
    from invert_rl.encoding import PromptEncoder, prompt_limit
    from invert_rl.evaluation.jobs import encode_jobs
    from invert_rl.tasks import TASKS as KNOWN
    from invert_rl.toy.make import make_world
    from invert_rl.video.prefetch import Prefetcher
    from invert_rl.video.settings import FrameSettings
    from invert_rl.video.store import FrameStore

    if args.data is None:
        args.videos = folder / "world" / "videos"
        args.data = make_world(folder / "world", TOY_SEED, args.rows, 0, 0)["train"]
    rows = of_different_videos(split_windows(read_rows(args.data)))[: args.rows]
    jobs = [(KNOWN[TASKS[number % len(TASKS)]], row) for number, row in enumerate(rows)]
    settings = FrameSettings(**frame_options(args), image_patch_size=processor.video_processor.patch_size)
    limit = prompt_limit(reference.model.config, args.max_new_tokens)
    with Prefetcher(FrameStore(args.videos, settings), 0) as clips:
        encoded = encode_jobs(PromptEncoder(processor), clips, limit, jobs)
    if not encoded.prompts:
        raise DataError(f"{args.data}: none of the first {len(rows)} rows has a video and a prompt that can be used")
    return encoded.prompts, len(jobs) - len(encoded.prompts)


def of_different_videos(rows: Sequence[Row]) -> list[Row]:
    """The rows in their order, but the first of each video before all others."""
    first = {row.video: row for row in reversed(rows)}
    return sorted(rows, key=lambda row: row is not first[row.video])


def build_engine(
    args: argparse.Namespace, processor: ProcessorMixin, reference: Reference, folder: Path, rows: int
) -> Engine:
    """The engine of ``args.engine`` for the reference's checkpoint."""
    dtype = str(reference.dtype).removeprefix("torch.")
    if args.engine == "transformers":
        from invert_rl.models import load_model
        from invert_rl.parity.transformers_engine import TransformersEngine

        model = load_model(args.model, args.revision, dtype=dtype).to(reference.model.device)
        return TransformersEngine(model, processor, reference.model, args.fault)
    from invert_rl.grpo.config import InvertGRPOConfig
    from invert_rl.parity.vllm_engine import VLLMEngine

    settings = InvertGRPOConfig(
        output_dir=str(folder / "run"),
        use_vllm=True,
        vllm_mode="colocate" if args.engine == "vllm" else "server",
        vllm_server_base_url=None if args.engine == "vllm" else args.engine.rstrip("/"),
        vllm_gpu_memory_utilization=args.gpu_memory_utilization,
        temperature=args.temperature,
        max_completion_length=args.max_new_tokens,
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        use_cpu=reference.model.device.type == "cpu",
        **frame_options(args),
    )
    return VLLMEngine(settings, reference.model, processor, rows)


def _check(args: argparse.Namespace) -> None:
    """Raise `DataError` for arguments that do not go together."""
    for name in ("rows", "completions", "max_new_tokens", "temperature"):
        if getattr(args, name) <= 0:
            raise DataError(f"--{name.replace('_', '-')} must be positive, found {getattr(args, name)}")
    if args.url is not None:
        if args.engine not in ("transformers", args.url):
            raise DataError(f"--url {args.url} and --engine {args.engine}: give one of them")
        args.engine = args.url
    if args.engine not in ("transformers", "vllm") and not args.engine.startswith(("http://", "https://")):
        raise DataError(f"--engine {args.engine}: must be transformers, vllm or an address that begins with http://")
    if args.fault is not None and args.engine != "transformers":
        raise DataError("--fault breaks --engine transformers only")
    if (args.data is None) != (args.videos is None):
        raise DataError("--data and --videos go together")
    if args.engine != "transformers":
        need_module("vllm", f"--engine {args.engine}", "use --engine transformers")


def as_text(result: dict[str, Any], found: Findings) -> str:
    """The result for people: a line for each check, the noise, and the verdict."""
    about = ", ".join(f"{name} {value}" for name, value in result["engine"].items())
    lines = [f"{result['model']}, {result['rows']} rows; engine: {about}"]
    for check in found.checks:
        against = "" if check.value is None else f" {check.value:.3g} (at most {check.limit:.3g})"
        lines.append(f"  {'right' if check.ok else 'WRONG':5} {check.name}{against}")
    lines += [f"  not   {name}: {why}" for name, why in found.left_out.items()]
    if found.noise:
        lines.append("  noise " + ", ".join(f"{name} {value:.2g}" for name, value in found.noise.items()))
    if result["rows_left_out"]:
        lines.append(f"  {result['rows_left_out']} rows could not be used")
    lines.append(result["verdict"])
    return "\n".join(lines) + "\n"
