"""The trainer of the supervised systems: whole batches drawn by step, every loss logged, exact resume."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from invert_rl.checkpoints import WholeCheckpoints
from invert_rl.determinism import deterministic_on_cpu
from invert_rl.fingerprint import ResumeFields
from invert_rl.options import WHOLE_MODEL_OPTIMIZERS, check, check_after
from invert_rl.recipe.run_log import RunLog
from invert_rl.tal.options import SUPERVISED

Draw = Callable[[int, int], Mapping[str, Any]]
"""Gives the batch of an optimizer step and of one of its parts, from the seed and these two numbers alone."""


TEST_PREFIX = "test/"
"""Before the metrics of tests on the way, in the log."""


@dataclass
class SupervisedArguments(ResumeFields, TrainingArguments):
    """Everything of `transformers.TrainingArguments`; ``per_device_train_batch_size`` counts videos."""

    max_steps: int = field(default=100, metadata={"help": "Optimizer steps."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between two lines of the log."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints that are kept."})
    report_to: None | str | list[str] = field(default="none", metadata={"help": "Where the log goes beside log.jsonl."})
    bf16: bool | None = field(default=False, metadata={"help": "bfloat16 autocast."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: a batch is drawn whole."})

    OPTIONS = SUPERVISED
    """What becomes of the fields of `transformers.TrainingArguments`."""

    def __post_init__(self) -> None:
        check(self, self.OPTIONS)
        self._check_launch()
        super().__post_init__()
        check_after(self)

    def _check_launch(self) -> None:
        """Raise `ValueError` for what can be known without a model and `check` does not look at."""
        if any(kind in str(getattr(self.optim, "value", self.optim)) for kind in WHOLE_MODEL_OPTIMIZERS):
            raise ValueError(f"optim {self.optim} is not supported: {self.OPTIONS.refused['optim_target_modules']}")
        for option in ("fsdp", "deepspeed"):
            if option in self.OPTIONS.refused and os.environ.get(f"ACCELERATE_USE_{option.upper()}") == "true":
                raise ValueError(f"launched with {option}: {self.OPTIONS.refused[option]}")


class StepBatches(Dataset):
    """The batches of a run: item n is a whole one, part ``n % parts`` of optimizer step ``n // parts``.

    ``parts`` is ranks times gradient accumulation, so that R ranks see what one rank with R accumulated parts sees, and
    a resumed run goes on with the batch at which it was stopped.
    """

    def __init__(self, steps: int, parts: int, draw: Draw) -> None:
        self.steps, self.parts, self.draw = steps, parts, draw

    def __len__(self) -> int:
        return self.steps * self.parts

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.draw(*divmod(index, self.parts))


class SupervisedTrainer(WholeCheckpoints):
    """Trains a module that gives losses: ``model(**batch)`` returns scalars by name, of which "loss" is minimised.

    The others are logged, as means over ranks and over the batches since the last line that gave them; their names are
    the same on all ranks. What must survive a resume beside the weights, such as running means, is a buffer of the
    model.

    Args:
        model: the module.
        draw: the batch of a step and part.
        args: settings.
        groups: parameter groups of the optimizer; None: all parameters, weight decay as `Trainer` does it.
        callbacks: beside the log of the run folder.
    """

    optimizer: torch.optim.Optimizer | None

    def __init__(
        self,
        model: nn.Module,
        draw: Draw,
        args: SupervisedArguments,
        groups: Sequence[dict[str, Any]] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        parts = args.world_size * args.gradient_accumulation_steps
        super().__init__(
            model=model,
            args=args,
            train_dataset=StepBatches(args.max_steps, parts, draw),
            data_collator=only_item,
            callbacks=[RunLog(), *callbacks],
        )
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = False  # each part's loss is a mean: accumulated parts are averaged
        self.groups = groups
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def get_train_dataloader(self) -> DataLoader:
        loader = DataLoader(
            self.train_dataset,
            batch_size=1,
            collate_fn=only_item,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None and self.groups is not None:
            optimizer, kwargs = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer(self.groups, **kwargs)
        return super().create_optimizer(model)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        losses = model(**inputs)
        for name, value in losses.items():
            if name != "loss":
                self._counts[name] = self._counts.get(name, 0) + 1
                self._sums[name] = self._sums.get(name, torch.zeros((), device=value.device)) + value.detach().float()
        return (losses["loss"], losses) if return_outputs else losses["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        names = sorted(self._sums)
        if names:
            means = torch.stack([self._sums[name] / self._counts[name] for name in names])
            means = self.accelerator.reduce(means, reduction="mean")
            logs |= dict(zip(names, means.tolist(), strict=True))
            self._sums, self._counts = {}, {}
        super().log(logs, start_time)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with deterministic_on_cpu(self.args.device):
            return super().train(*args, **kwargs)


class TestOnTheWay(TrainerCallback):
    """Logs what a test gives every so many steps; nothing is chosen by it."""

    __test__ = False  # not a test of pytest's

    def __init__(self, trainer: SupervisedTrainer, test: Callable[[], Mapping[str, float]], every: int) -> None:
        self.trainer, self.test, self.every = trainer, test, every

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            self.trainer.log({f"{TEST_PREFIX}{name}": value for name, value in self.test().items()})


def best_on_the_way(trainer: SupervisedTrainer, metric: str = "average_mAP") -> dict[str, float] | None:
    """Step and value of the best test on the way by ``metric``; None without tests."""
    name = TEST_PREFIX + metric
    found = [(entry[name], -entry["step"]) for entry in trainer.state.log_history if name in entry]
    return None if not found else {"step": -max(found)[1], metric: max(found)[0]}


def only_item(items: Sequence[Any]) -> Any:
    """The one item of a list: a batch is drawn as a whole."""
    (item,) = items
    return item
