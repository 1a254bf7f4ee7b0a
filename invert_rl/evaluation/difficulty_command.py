"""``invert-rl rate-difficulty``: sample several answers per row with the start model, ahead of training."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import DataError
from data_prep.rows import read_rows, split_windows, write_rows
from data_prep.verbs import annotate_missing
from invert_rl.evaluation.data import file_sha256
from invert_rl.evaluation.decoding_options import add_decoding_arguments, prefetcher
from invert_rl.evaluation.ray_options import add_ray_arguments, check_engine
from invert_rl.tasks import DEFAULT_TASKS, TASKS, load_preset
from invert_rl.tasks.options import (
    add_task_arguments,
    add_verb_arguments,
    complete_task_arguments,
    pipeline_for,
    verb_options,
)
from invert_rl.tasks.rewards import reward_weights
from invert_rl.video.options import add_frame_arguments, frame_options

if TYPE_CHECKING:
    from accelerate import PartialState
    from transformers import ProcessorMixin

    from invert_rl.encoding import PromptLimit
    from invert_rl.evaluation.difficulty import SampleAnswers
    from invert_rl.evaluation.ray_workers import Workplace
    from invert_rl.video.settings import FrameSettings

BATCH = {"transformers": 4, "vllm": 64}
"""Rows at a time unless ``--batch-size`` says."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl rate-difficulty``."""
    parser.description = (
        "Write the rows with meta.mean_reward and meta.solve_rate for each task, measured on sampled answers. "
        "Train on the result with --difficulty_range. A command that was killed goes on where it was. On several GPUs: "
        "accelerate launch -m invert_rl.cli rate-difficulty …"
    )
    parser.add_argument("data", type=Path, metavar="DATA.jsonl", help="rows to rate")
    parser.add_argument("--model", required=True, metavar="M", help="checkpoint that training will start from")
    parser.add_argument("--videos", type=Path, required=True, metavar="DIR", help="folder of the rows' videos")
    parser.add_argument("--output", type=Path, metavar="RATED.jsonl", help="default: DATA.rated.jsonl beside DATA")
    parser.add_argument(
        "--tasks", nargs="+", choices=tuple(TASKS), default=list(DEFAULT_TASKS), help="default: tvg vc ar vd"
    )
    add_task_arguments(parser, windows="split")
    parser.add_argument(
        "--rewards", nargs="+", metavar="R", help="as in training: tvg=format:1,iou:1 …; those of form do not count"
    )
    parser.add_argument("--generations", type=int, default=8, metavar="K", help="answers per row; default: %(default)s")
    parser.add_argument("--temperature", type=float, default=1.0, help="default: %(default)s")
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="reward that counts as solved; default: %(default)s"
    )
    parser.add_argument("--max-new-tokens", type=int, default=1024, help="default: %(default)s")
    parser.add_argument(
        "--backend", choices=("auto", "transformers", "vllm"), default="auto", help="default: vLLM if it is there"
    )
    parser.add_argument("--batch-size", type=int, help="rows at a time; default: 4, with vLLM 64")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    add_decoding_arguments(parser)
    add_ray_arguments(parser)
    add_verb_arguments(parser)
    parser.add_argument("--revision", help="of a hub checkpoint")
    parser.add_argument(
        "--transformers-positions",
        action=argparse.BooleanOptionalAction,
        help="Qwen2.5-VL positions as transformers counts them; default: as the model was trained",
    )
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32"))
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    add_frame_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Rate the rows; 0 on success. Raises `DataError` or `RewardError` for bad input."""
    for name in ("generations", "temperature", "max_new_tokens", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) <= 0:
            raise DataError(f"--{name.replace('_', '-')} must be positive, found {getattr(args, name)}")
    from accelerate import PartialState

    from invert_rl.evaluation.difficulty import rate_rows, read_ratings, with_ratings
    from invert_rl.evaluation.jobs import jobs_of, key_of
    from invert_rl.evaluation.model import backend_for
    from invert_rl.evaluation.parts import begin
    from invert_rl.evaluation.protocols.fields import model_sha256
    from invert_rl.evaluation.ray_workers import at_work
    from invert_rl.models import load_processor
    from invert_rl.task_data import check_video_root

    state = PartialState(cpu=args.cpu)
    check_engine(args, state.num_processes)
    complete_task_arguments(args, windows="split")
    preset = load_preset(args.prompt, args.tasks, args.windows)
    weights = reward_weights(args.rewards, {name: preset.tasks[name] for name in args.tasks})
    rows = read_rows(args.data)
    if args.windows == "split":
        rows = split_windows(rows)
    pipeline = pipeline_for(args.tasks, args.verb_pipeline)
    if pipeline is not None:
        rows = annotate_missing(rows, pipeline)
    check_video_root(rows, args.videos)
    output = args.output or args.data.with_name(f"{args.data.stem}.rated.jsonl")
    with checkpoint_errors(args.model):
        frames = frames_for(args, load_processor(args.model, args.revision))
        args.backend = backend_for(args, state)
    folder = Path(args.model)
    settings: dict[str, Any] = {
        "data": file_sha256(args.data),
        "model": model_sha256(folder) if folder.is_dir() else args.model,
        "frames": asdict(frames),
        **({"positions": "transformers"} if args.transformers_positions else {}),
        **({"backend": args.backend} if args.backend != "transformers" else {}),
        "tasks": args.tasks,
        "prompt": preset.identity(),
        "windows": args.windows,
        "rewards": weights,
        "generations": args.generations,
        "temperature": args.temperature,
        "max_new_tokens": args.max_new_tokens,
        "seed": args.seed,
        "verbs": f"{pipeline.name} {pipeline.version}" if pipeline else None,
        "verb_options": [args.verb_match, args.verb_guard, args.ignore_verbs] if pipeline else None,
    }
    with state.main_process_first():
        begin(output, output.with_name(f"{output.name}.settings.json"), settings)
    jobs = jobs_of([preset.tasks[name] for name in args.tasks], rows)
    batch_size = args.batch_size or BATCH[args.backend]
    with at_work(model_rates, args) as (share, _):
        rate_rows(jobs, share, output, batch_size, state.process_index, state.num_processes)
    state.wait_for_everyone()
    if not state.is_main_process:
        return 0
    ratings = read_ratings(output)
    missing = [key_of(job) for job in jobs if key_of(job) not in ratings]
    if missing:
        raise DataError(f"{output}: {len(missing)} ratings are missing, such as {missing[0]}; run the command again")
    rated = with_ratings(
        rows, ratings, args.threshold, args.tasks
    )  # the parts stay: another --threshold needs no new answers
    write_rows(rated, output)
    result: dict[str, Any] = {"output": str(output), "rows": len(rated), "tasks": {}}
    for name in args.tasks:
        means = [row.meta["mean_reward"][name] for row in rated if name in row.meta["mean_reward"]]
        solved = [row.meta["solve_rate"][name] for row in rated if name in row.meta["solve_rate"]]
        result["tasks"][name] = {
            "rated": len(means),
            "not_rated": len(rated) - len(means),
            "mean_reward": sum(means) / max(1, len(means)),
            "never_solved": solved.count(0.0),
            "always_solved": solved.count(1.0),
        }
    sys.stdout.write(json.dumps(result) + "\n" if args.json else _as_text(result))
    return 0


def model_rates(args: argparse.Namespace) -> Workplace:
    """The checkpoint ``args.model``, ready to sample and to be scored; ``args`` are this command's, completed."""
    from accelerate import PartialState

    from invert_rl.evaluation.difficulty import Rater
    from invert_rl.evaluation.ray_workers import Workplace
    from invert_rl.models import load_processor

    state = PartialState(cpu=args.cpu)
    preset = load_preset(args.prompt, args.tasks, args.windows)
    pipeline = pipeline_for(args.tasks, args.verb_pipeline)
    with checkpoint_errors(args.model):
        processor = load_processor(args.model, args.revision)
        frames = frames_for(args, processor)
        sample, limit = sampler(args, processor, frames, state)
    clips = prefetcher(args, frames, state.device.type)
    weights = reward_weights(args.rewards, {name: preset.tasks[name] for name in args.tasks})
    options = verb_options(pipeline, args.verb_match, "binary", args.verb_guard, args.ignore_verbs)
    rater = Rater(sample, processor, clips, limit, weights, options, preset.chat_template_kwargs)
    return Workplace(rater, clips, preset.tasks)


def sampler(
    args: argparse.Namespace, processor: ProcessorMixin, frames: FrameSettings, state: PartialState
) -> tuple[SampleAnswers, PromptLimit]:
    """How answers are sampled, by transformers or vLLM, and how long a prompt may be."""
    from invert_rl.encoding import prompt_limit
    from invert_rl.evaluation.difficulty import sample_with
    from invert_rl.evaluation.model import limits_for_vllm
    from invert_rl.models import load_config, load_model

    drawn = args.generations, args.temperature, args.max_new_tokens, args.seed
    if args.backend == "vllm":
        from invert_rl.evaluation.vllm_backend import sample_with_vllm

        limits = limits_for_vllm(args, frames)
        sample, _, places = sample_with_vllm(args.model, args.revision, processor, *drawn, args.dtype, limits)
    else:
        model = load_model(args.model, args.revision, not args.transformers_positions, dtype=args.dtype)
        sample, places = sample_with(model.to(state.device), processor, *drawn), None
    return sample, prompt_limit(load_config(args.model, args.revision), args.max_new_tokens, engine=places)


def frames_for(args: argparse.Namespace, processor: ProcessorMixin) -> FrameSettings:
    """Frame settings of the arguments for the processor's model."""
    from invert_rl.video.settings import FrameSettings

    return FrameSettings(**frame_options(args), image_patch_size=processor.video_processor.patch_size)


@contextmanager
def checkpoint_errors(model: str) -> Iterator[None]:
    """What a checkpoint cannot be used for, as `DataError` that names it."""
    from invert_rl.models import CheckpointError

    try:
        yield
    except DataError:
        raise
    except (CheckpointError, OSError, ValueError) as error:
        raise DataError(f"--model {model}: {error}") from error


def _as_text(result: dict[str, Any]) -> str:
    lines = [f"{result['rows']} rows: {result['output']}"]
    for name, counts in result["tasks"].items():
        told = ", ".join(
            f"{counts[key]} {key.replace('_', ' ')}" for key in ("never_solved", "always_solved", "not_rated")
        )
        lines.append(f"{name:<4} mean reward {counts['mean_reward']:.3f} of {counts['rated']} rows: {told}")
    return "\n".join(lines) + "\n"
