"""Checkpoints that are there as a whole or not at all, and that really load."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_model
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from data_prep.files import atomic_write
from invert_rl.resume import MANIFEST, checkpoint_step, load_weights

DRAFTS = ".saving"
"""Folder inside the run folder in which a checkpoint is written before it gets its name."""


class WholeCheckpoints(Trainer):
    """A `Trainer` whose checkpoints appear when they are complete, and whose weights load strictly.

    Put it in front of the trainer to be extended. All ranks write into a draft folder; when the last has finished,
    the list of files is written and the folder gets its name in one step. A run that is killed at any moment leaves
    no checkpoint that is half a one.
    """

    _drafting = False

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, DRAFTS) if self._drafting else folder

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        run = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        draft = run / DRAFTS / name
        if self.accelerator.is_local_main_process:
            shutil.rmtree(run / DRAFTS, ignore_errors=True)  # what a killed run left
        self.accelerator.wait_for_everyone()
        self._drafting = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._drafting = False
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            publish(draft, run / name)
            rotate(run, self.args.save_total_limit, run / name)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_local_main_process and draft.is_dir():  # a node with a disk of its own
            publish(draft, run / name)

    def _run_epoch(self, *, epoch: int, train_dataloader: DataLoader, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            # resumed from the last checkpoint: `Trainer` would make one step too many before it looks
            self.control.should_training_stop = True
            return
        sampler = innermost_sampler(train_dataloader)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the whole model, also where FSDP shards it and its checkpoints hold shards only."""
        if self.is_fsdp_enabled and not _internal_call:
            self._save(output_dir, state_dict=self.accelerator.get_state_dict(self.model))
        else:
            super().save_model(output_dir, _internal_call)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        target = self.model if model is None else model
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if sharded or isinstance(target, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        elif isinstance(target, PreTrainedModel):
            load_weights(target, resume_from_checkpoint)
        else:
            load_model(target, Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME, strict=True)


def innermost_sampler(loader: DataLoader) -> Sampler:
    """The sampler under all that accelerate puts around it.

    On several ranks, when batches are skipped after a resume, accelerate and `Trainer` do not look deep enough to tell
    it the epoch: it would start again at the first.
    """
    layer = loader.batch_sampler
    while hasattr(layer, "batch_sampler"):
        layer = layer.batch_sampler
    return layer.sampler


def publish(draft: Path, final: Path) -> None:
    """Give a finished checkpoint its name, in one step, after its files and their list have reached the disk.

    A checkpoint of that name, such as a damaged one that was skipped, makes way.
    """
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    for path in files:
        _to_disk(path)
    with atomic_write(draft / MANIFEST) as out:
        json.dump({path.relative_to(draft).as_posix(): path.stat().st_size for path in files}, out, indent=1)
    _to_disk(draft / MANIFEST)
    discard(final)
    os.rename(draft, final)
    _to_disk(final.parent)


def rotate(run: Path, limit: int | None, newest: Path) -> None:
    """Delete the checkpoints with the smallest step numbers until ``limit`` are left; never ``newest``."""
    if not limit or limit < 1:
        return
    others = [path for path in run.iterdir() if checkpoint_step(path) is not None and path != newest]
    others.sort(key=lambda path: checkpoint_step(path) or 0)
    for path in others[: max(0, len(others) + 1 - limit)]:
        discard(path)


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint so that no part of it can be taken for one at any moment."""
    if checkpoint.exists():
        grave = checkpoint.parent / DRAFTS / f"old-{checkpoint.name}"
        grave.parent.mkdir(exist_ok=True)
        os.rename(checkpoint, grave)
        shutil.rmtree(grave)


def _to_disk(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
