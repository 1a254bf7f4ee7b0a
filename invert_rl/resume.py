"""Exact resume: weights that really load, and the newest checkpoint that is complete."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from data_prep.errors import DataError

logger = logging.getLogger(__name__)


def load_weights(model: PreTrainedModel, checkpoint: str | os.PathLike[str]) -> None:
    """Load a checkpoint folder into ``model``, in place and strictly.

    `Trainer` loads the file's names as they are, but Qwen2.5-VL is saved under its old hub names, so that nothing
    matches and only a warning tells. ``from_pretrained`` knows the renaming; a missing or extra name raises here.
    """
    loaded = type(model).from_pretrained(checkpoint, dtype=model.dtype)
    model.load_state_dict(loaded.state_dict(), strict=True)


def why_incomplete(checkpoint: Path) -> str | None:
    """Why a checkpoint folder cannot be resumed from, or None if it can."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text())
    except FileNotFoundError:
        return "trainer_state.json is missing"
    except json.JSONDecodeError as error:
        return f"trainer_state.json is cut off ({error.msg})"
    if "global_step" not in state:
        return "trainer_state.json has no global_step"
    for name in ("optimizer.pt", "scheduler.pt"):
        distributed = any(checkpoint.glob("global_step*")) or any(checkpoint.glob("*_0"))
        if not distributed and not (checkpoint / name).is_file():
            return f"{name} is missing"
    weights = sorted(checkpoint.glob("*.safetensors"))
    for path in weights:
        try:
            with safe_open(path, framework="pt") as tensors:
                tensors.keys()
        except SafetensorError as error:
            return f"{path.name} is cut off ({error})"
    return None


def resume_point(output_dir: str, resume_from_checkpoint: str | bool | None) -> str | None:
    """The checkpoint that ``--resume_from_checkpoint`` means: a folder, or "latest" for the newest complete one.

    Returns None for a fresh start, also when "latest" finds none. Raises `DataError` for a folder that cannot be
    resumed from.
    """
    if not resume_from_checkpoint or str(resume_from_checkpoint).lower() in ("false", "none", "no"):
        return None
    if str(resume_from_checkpoint).lower() in ("latest", "auto", "true", "yes"):
        found = latest_checkpoint(output_dir)
        if found is None:
            logger.warning("%s holds no complete checkpoint: starting from the beginning", output_dir)
        return found
    folder = Path(str(resume_from_checkpoint))
    if not folder.is_dir():
        raise DataError(f"{folder}: no such checkpoint; give a checkpoint-N folder or 'latest'")
    reason = why_incomplete(folder)
    if reason is not None:
        raise DataError(f"{folder}: cannot be resumed from, {reason}; use 'latest' for the newest complete one")
    return str(folder)


def latest_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """The newest complete checkpoint of a run folder, or None; incomplete ones are skipped with a warning."""
    folder = Path(output_dir)
    found = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rsplit("-", 1)[1].isdigit()]
    for path in sorted(found, key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True):
        reason = why_incomplete(path)
        if reason is None:
            return str(path)
        logger.warning("skipping checkpoint %s: %s", path, reason)
    return None
