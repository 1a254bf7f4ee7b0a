"""What makes a run the run it is, and how a resumed one differs from it."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_object
from invert_rl.checksums import sha256
from invert_rl.ranks import on_main_process

logger = logging.getLogger(__name__)

FINGERPRINT = "fingerprint.json"
"""The file of a checkpoint that holds it."""

NEUTRAL = re.compile(
    r"output_dir$|run_name$|project$|resume_from_checkpoint$|accept_changes$|disable_tqdm$|local_rank$|model_name_or_path$|"
    r"log_|logging_|report_to|save_|push_to_|hub_|trackio_|prompts_logged|num_completions_to_print|"
    r"eval_(steps|strategy|delay|batch_size|accumulation_steps|on_start)|per_device_eval_batch_size|keep_best|load_best|"
    r"metric_for_best|greater_is_better|do_(train|eval|predict)$|dataloader_|ddp_|frame_memory_mb|vision_memory_mb|"
    r"frame_store|video_timeout|before_samples|vllm_server_|vllm_gpu_memory|skip_plan|skip_memory_metrics|include_num_input_tokens_seen|"
    r"enable_jit_checkpoint|restore_callback_states"
)
"""How the names of settings begin that change nothing in what is learned."""

LENGTH = ("max_steps", "num_train_epochs")
"""Settings by which a run is made longer on purpose; a difference is said, and is no reason to stop."""

KEPT = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
"""Settings that lie in the optimizer's state: a resumed run goes on with the checkpoint's also where they differ."""

PACKAGES = ("invert-rl", "torch", "transformers", "trl", "accelerate", "peft", "spacy", "vllm", "deepspeed")

Fingerprint = dict[str, Any]


@dataclass
class ResumeFields:
    """What a recipe's settings have for resuming beside ``resume_from_checkpoint``."""

    accept_changes: bool = field(
        default=False,
        metadata={
            "help": "Resume although data, settings, model or versions are not those of the checkpoint; each "
            "difference is named."
        },
    )


def fingerprint_of(args: TrainingArguments, *others: Any, model: str | None = None, **facts: Any) -> Fingerprint:
    """The fingerprint of a run: settings, contents of the files they name, model, versions, device, processes.

    Args:
        args, others: settings; `NEUTRAL` ones are left out, and a file stands for its content.
        model: folder or hub name of the start model.
        facts: whatever else must be the same, such as numbers of rows.
    """
    settings = dict(args.to_dict())
    for other in others:
        settings |= asdict(other) if is_dataclass(other) and not isinstance(other, type) else dict(other)
    kept = {name: value for name, value in settings.items() if not NEUTRAL.match(name)}

    def look() -> Fingerprint:
        found = {name: _content(value) for name, value in kept.items()}
        found |= {"model": None if model is None else _model_content(model), **facts}
        found |= {"processes": args.world_size, "device": args.device.type}
        found |= {f"version of {name}": _version(name) for name in PACKAGES}
        found["version of python"] = platform.python_version()
        return json.loads(json.dumps(found, default=str))

    return on_main_process(look)


def check_fingerprint(checkpoint: str | None, now: Fingerprint, accept: bool) -> None:
    """Compare a run with the one that wrote ``checkpoint``; all that differs is named, with both values.

    Raises `DataError` unless only `LENGTH` differs or ``accept`` is true: then it is said in the log.
    """
    if checkpoint is None:
        return
    path = Path(checkpoint) / FINGERPRINT
    if not path.is_file():
        logger.warning("%s: has no %s; nobody knows whether it belongs to these settings", checkpoint, FINGERPRINT)
        return
    then = read_object(path)
    found = differences(then, now)
    harmless = [text for name, text in found.items() if name in LENGTH]
    if harmless:
        logger.warning("%s: the run's length has changed: %s", checkpoint, "; ".join(harmless))
    rest = [text for name, text in found.items() if name not in LENGTH]
    if rest and not accept:
        raise DataError(
            f"{checkpoint}: was written by another run: {'; '.join(rest)}; give what it had, or go on all the same "
            "with --accept_changes true"
        )
    if rest:
        kept = [name for name in found if name in KEPT]
        note = f"; {', '.join(kept)}: the optimizer's state keeps what the checkpoint has" if kept else ""
        logger.warning("%s: resumed with changes: %s%s", checkpoint, "; ".join(rest), note)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """``name: old -> new`` by name, for all that is not the same in both."""
    absent = "(not there)"
    names = [*then, *(name for name in now if name not in then)]
    return {
        name: f"{name} {_short(then.get(name, absent))} -> {_short(now.get(name, absent))}"
        for name in names
        if then.get(name, absent) != now.get(name, absent)
    }


def write_fingerprint(folder: str | os.PathLike[str], fingerprint: Fingerprint) -> None:
    """Put a run's fingerprint into a folder."""
    with atomic_write(Path(folder) / FINGERPRINT) as out:
        json.dump(fingerprint, out, indent=1)
        out.write("\n")


def _content(value: Any) -> Any:
    """A file's hash in the place of its name, also in lists and mappings."""
    if isinstance(value, Mapping):
        return {str(name): _content(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_content(item) for item in value]
    if isinstance(value, str | Path) and value and os.path.isfile(value):
        return f"sha256 {sha256(value)[:16]}"
    if isinstance(value, str | Path) and value and os.path.isdir(value):
        return os.path.abspath(value)
    return value


def _model_content(name: str) -> Any:
    if not os.path.isdir(name):
        return name
    from invert_rl.evaluation.protocols.fields import model_sha256

    return f"sha256 {model_sha256(Path(name))}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:60]}…{text[-16:]}"
