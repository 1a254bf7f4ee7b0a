"""What a training run tells of itself in the folders of its models: ``invert_rl.json`` and the model card.

Written twice: when the model is saved, and again with the metrics when it has been evaluated, so that a run whose
evaluation fails leaves a model that explains itself, too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from trl import ModelConfig

from data_prep.rows import Row
from invert_rl.described import describe_model
from invert_rl.evaluation.data import file_sha256
from invert_rl.evaluation.protocols.fields import model_sha256
from invert_rl.evaluation.protocols.named import named_protocol
from invert_rl.evaluation.protocols.stated import answering_protocol, scoring_protocol
from invert_rl.evaluation.runs.validation import BEST
from invert_rl.model_card import write_card
from invert_rl.tasks import Preset
from invert_rl.video.settings import FrameSettings
from rewards.pipelines import VerbPipeline

ELSEWHERE = {
    *("model_name_or_path", "tasks", "rewards", "prompt", "windows", "trained_positions", "max_completion_length"),
    *("verb_pipeline", "verb_match", "verb_guard", "ignore_verbs", *FrameSettings.__dataclass_fields__),
}
"""Settings that the account tells in a place of their own."""
PLACES = {
    *("output_dir", "train_data", "eval_data", "validation_data", "video_root", "manifest", "before_samples"),
    *("frame_store", "vision_store", "resume_from_checkpoint", "logging_dir", "run_name", "plugins"),
    *("hub_token", "hub_model_id", "push_to_hub", "hub_private_repo", "local_rank", "disable_tqdm", "report_to"),
    *("dataloader_num_workers", "frame_memory_mb", "video_timeout", "decode_in_process", "accept_changes"),
    *("log_level", "deepspeed"),
}
"""Settings about one machine, which say nothing of the model."""


def account_of(
    recipe: str,
    args: Any,
    model_args: ModelConfig,
    base: str,
    preset: Preset,
    settings: FrameSettings,
    pipeline: VerbPipeline | None,
    rows: Sequence[Row],
    test_rows: Sequence[Row],
    rewards: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """The content of ``invert_rl.json``: how the model is asked, and what it was trained on and with."""
    about: dict[str, Any] = {
        "frames": asdict(settings),
        "windows": args.windows,
        "prompt": preset.description(),
        "trained_positions": args.trained_positions,
        "max_new_tokens": args.max_completion_length,
        "verbs": {
            "verb_pipeline": args.verb_pipeline,
            "verb_match": args.verb_match,
            "verb_guard": args.verb_guard,
            "ignore_verbs": args.ignore_verbs,
        },
    }
    about["run"] = {
        "recipe": recipe,
        "base": _portable(base),
        "tasks": list(args.tasks),
        "rewards": {task: dict(of_task) for task, of_task in (rewards or {}).items()},
        "train": _data(args.train_data, rows),
        "test": _data(args.eval_data, test_rows) if test_rows else None,
        "settings": changed_settings(args, model_args),
    }
    if test_rows:
        published = None if args.protocol is None else named_protocol(args.protocol)
        about["protocol"] = {
            **scoring_protocol(
                {"name": Path(args.eval_data).name, "rows": len(test_rows), "sha256": file_sha256(args.eval_data)},
                args.windows if published is None else published.windows,
                pipeline,
                args.verb_match,
                args.verb_guard,
                args.ignore_verbs,
                published=None if published is None else (args.protocol, published.rules),
            ),
            **answering_protocol(
                preset.identity(),
                settings,
                args.max_completion_length,
                "vllm" if getattr(args, "use_vllm", False) else "transformers",
                "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32",
                args.trained_positions,
            ),
        }
    return about


def describe_kept(
    output_dir: str,
    about: Mapping[str, Any],
    before: Mapping[str, float] | None = None,
    after: Mapping[str, float] | None = None,
    blind: Mapping[str, float] | None = None,
) -> None:
    """Write the account and the card into ``model`` and ``best`` of a run folder; the metrics are of ``model``."""
    for name in ("model", BEST):
        folder = Path(output_dir) / name
        if not folder.is_dir():
            continue
        content = dict(about)
        if name == "model" and after:
            content["results"] = {"before": dict(before or {}), "after": dict(after), "blind": dict(blind or {})}
        content = describe_model(folder, **content)
        if "protocol" in content:
            content["protocol"] = {**content["protocol"], "model": {"name": name, "sha256": model_sha256(folder)}}
        write_card(folder, content, Path(output_dir).name)


def changed_settings(args: TrainingArguments, model_args: ModelConfig) -> dict[str, Any]:
    """The settings that are not the defaults, by name, without those that are told elsewhere or name places."""
    changed = {}
    for part in (args, model_args):
        for item in fields(part):
            default = item.default_factory() if item.default_factory is not MISSING else item.default
            value = getattr(part, item.name)
            value = getattr(value, "value", value)
            plain = isinstance(value, str | int | float | bool | list | dict)
            if item.name not in ELSEWHERE | PLACES and plain and value != getattr(default, "value", default):
                changed[item.name] = value
    return changed


def _data(path: str, rows: Sequence[Row]) -> dict[str, Any]:
    names = sorted({f"{row.dataset} {row.split}".strip() for row in rows} - {""})
    return {
        "file": Path(path).name,
        "sha256": file_sha256(path),
        "datasets": names[:8],
        "rows": len(rows),
        "videos": len({row.video for row in rows}),
    }


def _portable(name: str) -> str:
    """The name of a checkpoint without the folders of this machine."""
    return Path(os.path.abspath(name)).name if os.path.isdir(name) else name
