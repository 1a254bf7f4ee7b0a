"""Exact resume: which checkpoint is the newest that can be read as a whole."""

from __future__ import annotations

import json
import logging
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers.trainer_pt_utils import safe_globals
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from data_prep.errors import DataError
from invert_rl.checksums import MANIFEST, against_manifest
from invert_rl.ranks import on_main_process

logger = logging.getLogger(__name__)

ZIPPED = (".pt", ".pth", ".bin")
"""Endings of the files that `torch.save` writes: zip archives, whose directory is at the end."""

PICKLED = "training_args.bin"
"""What `Trainer` writes for people; it holds objects, and nothing here ever loads it."""

NEWEST = ("latest", "auto", "true", "yes")
"""Values of ``--resume_from_checkpoint`` that mean the newest checkpoint of the run folder."""


def wants_resume(resume_from_checkpoint: str | bool | None) -> bool:
    """Whether ``--resume_from_checkpoint`` asks for anything."""
    return bool(resume_from_checkpoint) and str(resume_from_checkpoint).lower() not in ("false", "none", "no")


def resume_point(output_dir: str, resume_from_checkpoint: str | bool | None) -> str | None:
    """The checkpoint that ``--resume_from_checkpoint`` means: a folder, or "latest" for the newest readable one.

    "auto" is the same for jobs that a scheduler starts again: without any checkpoint it is a start from the beginning.
    That is what "latest" does, too, but with a warning. The main process looks, the others are told. Returns None for
    a fresh start. Raises `DataError` for a folder that cannot be resumed from.
    """
    if not wants_resume(resume_from_checkpoint):
        return None
    wanted = str(resume_from_checkpoint)
    if wanted.lower() not in NEWEST:
        return on_main_process(lambda: _checked(Path(wanted)))
    found = on_main_process(lambda: latest_checkpoint(output_dir))
    if found is None and (wanted.lower() != "auto" or _checkpoints(Path(output_dir))):
        logger.warning("%s holds no complete checkpoint: starting from the beginning", output_dir)
    return found


def _checked(folder: Path) -> str:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such checkpoint; give a checkpoint-N folder, 'latest' or 'auto'")
    reason = why_incomplete(folder)
    if reason is not None:
        raise DataError(f"{folder}: cannot be resumed from, {reason}; use 'latest' for the newest complete one")
    return str(folder)


def checkpoint_step(path: Path) -> int | None:
    """The optimizer step that a checkpoint folder's name says, or None for any other path."""
    prefix, _, number = path.name.rpartition("-")
    return int(number) if prefix == PREFIX_CHECKPOINT_DIR and number.isascii() and number.isdigit() else None


def _checkpoints(run: Path) -> list[Path]:
    """What is named like a checkpoint, the newest first."""
    found = [path for path in run.glob("*") if checkpoint_step(path) is not None]
    return sorted(found, key=lambda path: checkpoint_step(path) or 0, reverse=True)


def latest_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """The newest checkpoint of a run folder that can be read, or None; others are skipped with a warning."""
    for path in _checkpoints(Path(output_dir)):
        reason = why_incomplete(path)
        if reason is None:
            return str(path)
        logger.warning("skipping checkpoint %s: %s", path, reason)
    return None


def why_incomplete(checkpoint: Path) -> str | None:
    """Why a checkpoint folder cannot be resumed from, or None if it can.

    Every file is compared with the size and checksum that were listed with the checkpoint. Beyond the list, and where
    it is missing, each file is read the way training will read it, and weights must be finite numbers.
    """
    if not checkpoint.is_dir():
        return "it is no folder"
    try:
        return _why_incomplete(checkpoint)
    except Exception as error:  # whatever is wrong with it, the checkpoint before may be sound
        return f"it cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"


def _why_incomplete(checkpoint: Path) -> str | None:
    reason = _of_state(checkpoint)
    if reason is None and os.path.lexists(checkpoint / MANIFEST):
        reason = against_manifest(checkpoint)
    if reason is not None:
        return reason
    sharded = any(checkpoint.glob("global_step*")) or any(checkpoint.glob("*_0"))  # by DeepSpeed or FSDP
    weights = [path for path in checkpoint.glob("*model*") if path.suffix in (".safetensors", ".bin")]
    states = [path for path in checkpoint.iterdir() if path.suffix in ZIPPED]
    if not sharded:
        needed = {"model.safetensors": weights, "optimizer.pt": [*checkpoint.glob("optimizer.*")]}
        needed |= {"scheduler.pt": [*checkpoint.glob("scheduler.pt")]}
        needed |= {"rng_state.pth": [*checkpoint.glob("rng_state*.pth")]}
        for name, found in needed.items():
            if not found:
                return f"{name} is missing"
    for path in sorted({*weights, *states}):
        look = _of_weights if path.suffix == ".safetensors" else _of_zipped
        reason = look(path)
        if reason is not None:
            return f"{path.name} {reason}"
    for path in sorted(checkpoint.glob("rng_state*.pth")):
        reason = _of_random_state(path)
        if reason is not None:
            return f"{path.name} {reason}"
    return None


def _of_state(checkpoint: Path) -> str | None:
    """What is wrong with ``trainer_state.json``, or None."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "trainer_state.json is missing"
    except ValueError as error:
        return f"trainer_state.json is cut off ({error})"
    step = state.get("global_step") if isinstance(state, dict) else None
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        return f"trainer_state.json has no global_step (it says {step!r})"
    if checkpoint_step(checkpoint) not in (None, step):
        return f"trainer_state.json is of step {step}"
    return None


def _of_weights(path: Path) -> str | None:
    """What is wrong with a file of weights, or None."""
    try:
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                value = tensors.get_tensor(name)
                if value.is_floating_point() and value.element_size() > 1 and not value.isfinite().all():
                    return f"holds NaN or infinity in {name}"
    except SafetensorError as error:
        return f"is cut off ({error})"
    return None


def _of_zipped(path: Path) -> str | None:
    """What is wrong with a file of `torch.save`, or None; nothing but tensors and plain values is unpickled."""
    if not zipfile.is_zipfile(path):
        return "is cut off (its end is no zip directory)"
    if path.name == PICKLED:
        return None
    if not (path.parent / MANIFEST).is_file():
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            return f"is damaged (at {damaged})"
    try:
        content = _load(path)
    except Exception as error:  # of many types, by what the damage hits
        return f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    return None if _finite(content) else "holds NaN or infinity"


def _finite(content: Any) -> bool:
    """Whether all tensors in nested mappings and lists, such as the moments of Adam, are finite numbers."""
    if isinstance(content, torch.Tensor):
        return not content.is_floating_point() or content.element_size() == 1 or bool(content.isfinite().all())
    if isinstance(content, dict):
        return all(_finite(value) for value in content.values())
    return all(_finite(value) for value in content) if isinstance(content, list | tuple) else True


def _of_random_state(path: Path) -> str | None:
    """What keeps a file of random states from being restored, or None."""
    state = _load(path)
    setters: dict[str, Callable[[Any], Any]] = {
        "python": random.Random().setstate,
        "numpy": np.random.RandomState().set_state,
        "cpu": torch.Generator().set_state,
    }
    for name, setter in setters.items():
        try:
            setter(state[name])
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError, OverflowError) as error:
            return f"holds no random state of {name} ({type(error).__name__}: {error})"
    return None


def _load(path: Path) -> Any:
    with safe_globals():
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
