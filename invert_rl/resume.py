"""Exact resume: weights that really load, and the newest checkpoint that is complete."""

from __future__ import annotations

import json
import logging
import os
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from data_prep.errors import DataError

logger = logging.getLogger(__name__)

MANIFEST = "files.json"
"""Names and sizes in bytes of a checkpoint's files, the last file to be written into it."""

ZIPPED = (".pt", ".pth", ".bin")
"""Endings of the files that `torch.save` writes: zip archives, whose directory is at the end."""

NOT_NEEDED = ".md"
"""Files with this ending may change: a run does not read them."""


def load_weights(model: PreTrainedModel, checkpoint: str | os.PathLike[str]) -> None:
    """Load a checkpoint folder into ``model``, in place and strictly.

    `Trainer` loads the file's names as they are, but Qwen2.5-VL is saved under its old hub names, so that nothing
    matches and only a warning tells. ``from_pretrained`` knows the renaming; a missing or extra name raises here.
    """
    loaded = type(model).from_pretrained(checkpoint, dtype=torch.float32)  # exact also for parts in half precision
    model.load_state_dict(loaded.state_dict(), strict=True)


def why_incomplete(checkpoint: Path) -> str | None:
    """Why a checkpoint folder cannot be resumed from, or None if it can.

    Sizes are compared with the list that was written with the checkpoint, and each file's own end is looked at, also
    where the list is missing; nothing is read as a whole.
    """
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text())
    except FileNotFoundError:
        return "trainer_state.json is missing"
    except ValueError as error:
        return f"trainer_state.json is cut off ({error})"
    if "global_step" not in state:
        return "trainer_state.json has no global_step"
    if (checkpoint / MANIFEST).is_file():
        reason = _against_list(checkpoint)
        if reason is not None:
            return reason
    sharded = any(checkpoint.glob("global_step*")) or any(checkpoint.glob("*_0"))  # by DeepSpeed or FSDP
    weights = [path for path in checkpoint.glob("*model*") if path.suffix in (".safetensors", ".bin")]
    if not sharded:
        needed = {"model.safetensors": weights, "optimizer.pt": [*checkpoint.glob("optimizer.*")]}
        needed |= {"scheduler.pt": [*checkpoint.glob("scheduler.pt")]}
        needed |= {"rng_state.pth": [*checkpoint.glob("rng_state*.pth")]}
        for name, found in needed.items():
            if not found:
                return f"{name} is missing"
    for path in sorted({*weights, *(path for path in checkpoint.iterdir() if path.suffix in ZIPPED)}):
        reason = _why_cut_off(path)
        if reason is not None:
            return f"{path.name} is cut off ({reason})"
    return None


def _against_list(checkpoint: Path) -> str | None:
    """What differs between a checkpoint's files and its `MANIFEST`, or None."""
    try:
        sizes = json.loads((checkpoint / MANIFEST).read_text())
    except ValueError as error:
        return f"{MANIFEST} is cut off ({error})"
    for name, size in sizes.items():
        path = checkpoint / name
        if name.endswith(NOT_NEEDED):
            continue
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} is cut off ({path.stat().st_size} of {size} bytes)"
    return None


def _why_cut_off(path: Path) -> str | None:
    """What shows that a file of weights or states has lost its end, or None."""
    if path.suffix != ".safetensors":
        return None if zipfile.is_zipfile(path) else "its end is no zip directory"
    try:
        with safe_open(path, framework="pt") as tensors:
            tensors.keys()
    except SafetensorError as error:
        return str(error)
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


def checkpoint_step(path: Path) -> int | None:
    """The optimizer step that a checkpoint folder's name says, or None for any other path."""
    prefix, _, number = path.name.rpartition("-")
    return int(number) if prefix == PREFIX_CHECKPOINT_DIR and number.isdigit() else None


def latest_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """The newest complete checkpoint of a run folder, or None; incomplete ones are skipped with a warning."""
    found = [path for path in Path(output_dir).glob("*") if checkpoint_step(path) is not None]
    for path in sorted(found, key=lambda path: checkpoint_step(path) or 0, reverse=True):
        reason = why_incomplete(path)
        if reason is None:
            return str(path)
        logger.warning("skipping checkpoint %s: %s", path, reason)
    return None
