"""Checkpoints that are there as a whole or not at all, and that really load."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from invert_rl import stopping
from invert_rl.checksums import MANIFEST, write_manifest
from invert_rl.fingerprint import Fingerprint, write_fingerprint
from invert_rl.loading import load_adapters, load_folder, load_weights
from invert_rl.resume import checkpoint_step
from invert_rl.video.quarantine import QUARANTINE, Quarantine

DRAFTS = ".saving"
"""Folder inside the run folder in which a checkpoint is written before it gets its name."""


class WholeCheckpoints(Trainer):
    """A `Trainer` with checkpoints that appear when they are complete and load strictly, and that can be stopped.

    Put it in front of the trainer to be extended. All ranks write into a draft folder; when the last has finished,
    the list of files is written and the folder gets its name in one step. A run that is killed at any moment leaves
    no checkpoint that is half a one; one that is asked to stop (`invert_rl.stopping`) leaves one of its last step.
    """

    fingerprint: Fingerprint | None = None
    """Goes into every checkpoint."""
    quarantine: Quarantine | None = None
    """Grows in the run folder, goes into every checkpoint and comes back on a resume."""
    steps_per_round = 1
    """A run is stopped, and so resumed, at multiples of this many steps."""
    _drafting = False

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """`Trainer.train`; raises `invert_rl.stopping.Stopped`, after a checkpoint, where a signal asked for it."""
        if self.quarantine is not None:
            if isinstance(resume_from_checkpoint, str):
                self.quarantine.read(Path(resume_from_checkpoint) / QUARANTINE)
            if self.accelerator.is_main_process:
                self.quarantine.file = Path(str(self.args.output_dir)) / QUARANTINE
        stop = StopAfterStep(self)
        self.add_callback(stop)
        try:
            with stopping.finishing_steps():
                result = super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.remove_callback(stop)
        self._share_quarantine()
        number = stop.number or stop.agreed()
        if number:
            if self.accelerator.is_main_process:
                step, run = self.state.global_step, self.args.output_dir
                written = Path(str(run)) / f"{PREFIX_CHECKPOINT_DIR}-{step}"
                stopping.say(
                    f"stopped by {stopping.name_of(number)} after step {step} of {self.state.max_steps}, "
                    f"{written} is {'written' if written.is_dir() else 'not written: save_strategy is no'}; go on with "
                    f"--output_dir {run} --resume_from_checkpoint auto"
                )
            self.accelerator.wait_for_everyone()
            raise stopping.Stopped(number)
        return result

    def _share_quarantine(self) -> None:
        """Let all ranks know of what each has left out."""
        if self.quarantine is not None:
            self.quarantine.update(dict(gather_object(list(self.quarantine.videos.items()))))

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, DRAFTS) if self._drafting else folder

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        """None for checkpoints, of which TRL's draft knows nothing: the finished model has one of its run."""

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
        self._share_quarantine()
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_local_main_process:  # of each node: its disk may be its own
            if self.fingerprint is not None:
                write_fingerprint(draft, self.fingerprint)
            if self.quarantine is not None:
                self.quarantine.write(draft / QUARANTINE)
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
        if sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        elif isinstance(target, PeftModel):
            load_adapters(target, resume_from_checkpoint)
        elif isinstance(target, PreTrainedModel):
            load_weights(target, resume_from_checkpoint)
        else:
            load_folder(target, resume_from_checkpoint)


class StopAfterStep(TrainerCallback):
    """Ends training with a checkpoint after a step during which any rank was asked to stop."""

    def __init__(self, trainer: WholeCheckpoints) -> None:
        self.trainer = trainer
        self.number = 0
        """The signal that all ranks agreed to stop for, or 0."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look whether this process, or another one, was asked."""
        if state.global_step % self.trainer.steps_per_round:
            return
        self.number = self.agreed()
        if self.number:
            control.should_save = control.should_training_stop = True

    def agreed(self) -> int:
        """The signal that asked any rank, or 0; a collective call."""
        mine = stopping.asked()
        if self.trainer.args.world_size == 1:
            return mine
        return int(self.trainer.accelerator.gather(torch.tensor([mine], device=self.trainer.args.device)).max())


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
    for path in write_manifest(draft):
        _to_disk(path)
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
