"""A checkpoint that answers a data file: what ``invert-rl evaluate --model`` does."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import ProcessorMixin
from transformers.utils.logging import disable_progress_bar

from data_prep.errors import DataError
from data_prep.manifest import read_manifest, split_usable
from data_prep.rows import Row
from invert_rl.encoding import prompt_limit
from invert_rl.evaluation.asked import asked_preset
from invert_rl.evaluation.decoding_options import prefetcher
from invert_rl.evaluation.generate import generate_predictions
from invert_rl.evaluation.jobs import Job, Ranks, jobs_of
from invert_rl.evaluation.predict import Answerer, Complete, complete_with
from invert_rl.evaluation.predictions import Prediction
from invert_rl.evaluation.protocols.fields import Protocol, model_sha256
from invert_rl.evaluation.protocols.named import named_protocol
from invert_rl.evaluation.protocols.stated import answering_protocol
from invert_rl.evaluation.ray_options import check_engine
from invert_rl.evaluation.ray_workers import Workplace, at_work
from invert_rl.evaluation.scoring import score_answers
from invert_rl.models import CheckpointError, adapter_of, load_config, load_model, load_processor
from invert_rl.task_data import check_video_root
from invert_rl.tasks import Preset
from invert_rl.video.options import frame_options
from invert_rl.video.settings import SPATIAL_MERGE, FrameSettings

PATIENCE = timedelta(days=7)
"""How long ranks wait for each other: until the slowest has answered its share."""
BATCH = {"transformers": 16, "vllm": 128}
"""Prompts at a time unless ``--batch-size`` says."""


def predict_with_model(
    args: argparse.Namespace, rows: Sequence[Row], scoring: Protocol, preset: Preset, options: Mapping[str, Any]
) -> tuple[list[Prediction], Protocol] | None:
    """Predictions of ``args.model`` on all rows and the protocol they were made by; None on every rank but the first.

    ``scoring`` is the protocol so far, ``preset`` words the tasks, ``options`` are the rewards'. Raises `DataError` for
    a checkpoint, a folder or a setting that cannot be used.
    """
    check_video_root(rows, args.videos)
    jobs = jobs_of([preset.tasks[task] for task in args.tasks], rows)
    asked = {row.id: row for _, row in jobs}.values()
    unusable = split_usable(asked, read_manifest(args.manifest))[1] if args.manifest is not None else {}
    state = PartialState(cpu=args.cpu, timeout=PATIENCE)
    check_engine(args, state.num_processes)
    output = args.output or default_output(args.model, args.data, args.limit)
    with at_work(model_answers, args) as (share, made):

        def scored(batches: Sequence[list[Job]]) -> Iterator[tuple[list[Job], list[Prediction]]]:
            for batch, predictions in share(batches):
                score_answers(predictions, [row for _, row in batch], preset.tasks, options)
                yield batch, predictions

        predictions = generate_predictions(
            jobs,
            scored,
            output,
            {"data": scoring["data"], **made, "tasks": args.tasks, "versions": scoring["versions"]},
            args.batch_size or BATCH[made["decoding"]["backend"]],
            unusable,
            Ranks(state.process_index, state.num_processes, state.wait_for_everyone),
        )
    if not state.is_main_process:
        return None
    sys.stderr.write(f"answers: {output}\n")
    return predictions, {**scoring, **made}


def model_answers(args: argparse.Namespace) -> Workplace:
    """The checkpoint ``args.model``, ready to answer; ``about`` is the part of the protocol that it stands for.

    Raises `DataError` for a checkpoint or a setting that cannot be used.
    """
    disable_progress_bar()
    preset = asked_preset(args)
    state = PartialState(cpu=args.cpu, timeout=PATIENCE)
    try:
        backend = backend_for(args, state)
        processor = load_processor(args.model, args.revision)
        settings = _frame_settings(args, processor.video_processor.patch_size)
        config = load_config(args.model, args.revision)
        complete, dtype, places = (_with_vllm if backend == "vllm" else _with_transformers)(args, processor, state)
        limit = prompt_limit(config, args.max_new_tokens, engine=places)
    except DataError:
        raise
    except (CheckpointError, OSError) as error:
        raise DataError(f"--model {args.model}: {error}") from error
    except (TypeError, ValueError) as error:
        raise DataError(f"settings: {error}") from error
    made = {
        "model": _model_identity(args.model, config),
        **answering_protocol(
            preset.identity(), settings, args.max_new_tokens, backend, dtype, not args.transformers_positions
        ),
    }
    clips = prefetcher(args, settings, state.device.type)
    answer = Answerer(processor, clips, complete, limit, preset.chat_template_kwargs)
    return Workplace(answer, clips, preset.tasks, made)


def _frame_settings(args: argparse.Namespace, patch_size: int) -> FrameSettings:
    """Frame settings of the arguments for a model with that patch size."""
    named = named_protocol(args.protocol).frame_settings(patch_size * SPATIAL_MERGE) if args.protocol else None
    return FrameSettings(**frame_options(args, named), image_patch_size=patch_size)


def choose_backend(wanted: str, state: PartialState) -> str:
    """``transformers`` or ``vllm``; "auto" is vLLM where it is installed, has a GPU and is not shared out over ranks.

    Raises `DataError` where vLLM is asked for and cannot be used.
    """
    installed = find_spec("vllm") is not None
    if wanted == "auto":
        return "vllm" if installed and state.device.type == "cuda" and state.num_processes == 1 else "transformers"
    if wanted == "vllm" and not installed:
        raise DataError("--backend vllm: vLLM is not installed; pip install -e '.[vllm]', or leave --backend out")
    if wanted == "vllm" and state.num_processes > 1:
        raise DataError("--backend vllm runs in one process; start it without accelerate launch")
    return wanted


def _with_transformers(
    args: argparse.Namespace, processor: ProcessorMixin, state: PartialState
) -> tuple[Complete, str, int | None]:
    """How prompts are completed, the precision, and the engine's places where they may be fewer than the model's."""
    model = load_model(args.model, args.revision, trained_positions=not args.transformers_positions, dtype=args.dtype)
    model = model.to(state.device).eval()
    return complete_with(model, processor, args.max_new_tokens), str(model.dtype).removeprefix("torch."), None


def _with_vllm(
    args: argparse.Namespace, processor: ProcessorMixin, state: PartialState
) -> tuple[Complete, str, int | None]:
    """How prompts are completed, the precision, and the engine's places where they may be fewer than the model's."""
    from invert_rl.evaluation.vllm_backend import complete_with_vllm

    limits = limits_for_vllm(args, _frame_settings(args, processor.video_processor.patch_size))
    return complete_with_vllm(args.model, args.revision, processor, args.max_new_tokens, args.dtype, limits)


def limits_for_vllm(args: argparse.Namespace, settings: FrameSettings) -> dict[str, Any]:
    """What an engine for ``args.model`` and videos of these settings has to be made for (`engine_limits`).

    Raises `DataError` for a model or an option that vLLM does not take.
    """
    from invert_rl.grpo.vllm_limits import engine_limits

    if args.transformers_positions:
        raise DataError("--transformers-positions: vLLM has the trained rule only; use --backend transformers")
    if adapter_of(args.model, args.revision) is not None:
        raise DataError(
            f"--model {args.model} is an adapter, which vLLM does not read here: merge it with `invert-rl merge "
            f"{args.model} --output DIR`, or use --backend transformers"
        )
    positions = getattr(load_config(args.model, args.revision).get_text_config(), "max_position_embeddings", None)
    return engine_limits(settings, args.max_new_tokens, positions=positions)


def backend_for(args: argparse.Namespace, state: PartialState) -> str:
    """`choose_backend` for ``args.model``: by itself transformers for an adapter and for positions vLLM has not."""
    if args.backend == "auto" and (args.transformers_positions or adapter_of(args.model, args.revision) is not None):
        return "transformers"
    return choose_backend(args.backend, state)


def default_output(model: str, data: Path, limit: int | None = None) -> Path:
    """``runs/evaluate/MODEL-DATA.jsonl``; a run's ``model`` folder goes by the name of the run.

    With a ``limit`` ``MODEL-DATA-firstN.jsonl``: a trial must not stand in the way of the whole evaluation.
    """
    parts = Path(os.path.abspath(model) if os.path.isdir(model) else model).parts
    name = parts[-2] if parts[-1] == "model" and len(parts) > 1 else parts[-1]
    part = "" if limit is None else f"-first{limit}"
    return Path("runs") / "evaluate" / f"{name}-{data.name.split('.')[0]}{part}.jsonl"


def _model_identity(name: str, config: object) -> dict[str, str | None]:
    """Name and content of a checkpoint: the hash of a folder, the commit of a hub checkpoint."""
    if os.path.isdir(name):
        return {
            "name": Path(name).name if Path(name).name != "model" else str(Path(name)),
            "sha256": model_sha256(Path(name)),
        }
    return {"name": name, "commit": getattr(config, "_commit_hash", None)}
