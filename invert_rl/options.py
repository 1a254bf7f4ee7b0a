"""What becomes of each option of TRL's and transformers' settings: it is heeded, refused, or said to do nothing.

A table names each field once; a test holds the tables against the installed versions and fails when one adds a field.
`check` runs before anything is loaded.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.optimization import get_scheduler
from trl import ModelConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """The fields of one class of settings, each in exactly one place."""

    passed_on: Collection[str]
    """Heeded by TRL, transformers or this library."""
    refused: Mapping[str, str]
    """Why; any value but the default raises."""
    no_effect: Mapping[str, str]
    """Why it changes nothing; another value than the default is told in a warning."""

    def __or__(self, other: Options) -> Options:
        return Options(
            {*self.passed_on, *other.passed_on},
            {**self.refused, **other.refused},
            {**self.no_effect, **other.no_effect},
        )

    def names(self) -> list[str]:
        """All fields, those in two places twice."""
        return [*self.passed_on, *self.refused, *self.no_effect]


_LOADER = "rows are light and come from the schedule; videos are decoded by dataloader_num_workers processes of our own"
_EVALUATION = "validation is greedy generation over the test rows (--eval_strategy, --eval_batch_size), not a loss"
_HUB = "--push_to_hub uploads RUN/model once, when the run is finished; push other revisions with `invert-rl push`"
_COMPILE = "packed prompts have another length in every step, and each would be compiled again"
_BEST = "use --keep_best eval/mIoU, which keeps the best model in RUN/best"

TRAINING = Options(
    passed_on=[
        "output_dir",
        "per_device_train_batch_size",
        "num_train_epochs",
        "max_steps",
        "learning_rate",
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_steps",
        "optim",
        "optim_args",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "optim_target_modules",
        "gradient_accumulation_steps",
        "max_grad_norm",
        "bf16",
        "fp16",
        "tf32",
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "torch_empty_cache_steps",
        "logging_strategy",
        "logging_steps",
        "logging_first_step",
        "logging_nan_inf_filter",
        "log_level",
        "log_level_replica",
        "log_on_each_node",
        "disable_tqdm",
        "report_to",
        "run_name",
        "project",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
        "eval_strategy",
        "eval_steps",
        "eval_delay",
        "eval_on_start",
        "save_strategy",
        "save_steps",
        "save_total_limit",
        "save_only_model",
        "save_on_each_node",
        "metric_for_best_model",
        "greater_is_better",
        "restore_callback_states_from_checkpoint",
        "full_determinism",
        "seed",
        "data_seed",
        "use_cpu",
        "accelerator_config",
        "dataloader_num_workers",
        "ddp_find_unused_parameters",
        "ddp_bucket_cap_mb",
        "ddp_broadcast_buffers",
        "ddp_static_graph",
        "ddp_backend",
        "ddp_timeout",
        "fsdp",
        "fsdp_config",
        "deepspeed",
        "debug",
        "skip_memory_metrics",
        "resume_from_checkpoint",
        "local_rank",
        "push_to_hub",
        "hub_model_id",
        "hub_private_repo",
        "hub_token",
    ],
    refused={
        "label_smoothing_factor": "it is not part of this loss",
        "bf16_full_eval": "evaluation computes as training does; use --bf16",
        "fp16_full_eval": "evaluation computes as training does; use --fp16",
        "torch_compile": _COMPILE,
        "torch_compile_backend": _COMPILE,
        "torch_compile_mode": _COMPILE,
        "use_liger_kernel": "it replaces forwards that this library extends",
        "liger_kernel_config": "it replaces forwards that this library extends",
        "use_cache": "rollouts always use the cache, updates never do",
        "neftune_noise_alpha": "rollouts, old and new log-probabilities would each see other noise",
        "auto_find_batch_size": "a smaller batch would no longer hold whole groups",
        "include_num_input_tokens_seen": "num_tokens in the log counts them",
        "per_device_eval_batch_size": "use --eval_batch_size",
        "prediction_loss_only": _EVALUATION,
        "eval_do_concat_batches": _EVALUATION,
        "eval_use_gather_object": _EVALUATION,
        "eval_accumulation_steps": _EVALUATION,
        "include_for_metrics": _EVALUATION,
        "batch_eval_metrics": _EVALUATION,
        "load_best_model_at_end": _BEST,
        "hub_strategy": _HUB,
        "hub_always_push": _HUB,
        "hub_revision": _HUB,
        "enable_jit_checkpoint": "it saves in the middle of a round, from which no run can go on exactly",
        "ignore_data_skip": "a resumed run goes on with the rows that come next",
        "parallelism_config": "launch with FSDP2 or ZeRO-3, see docs/scaling.md",
        "dataloader_persistent_workers": _LOADER,
        "dataloader_prefetch_factor": _LOADER,
        "dataloader_multiprocessing_context": _LOADER,
        "dataloader_in_order": _LOADER,
        "remove_unused_columns": "a row's columns are what prompts and rewards are made of",
        "label_names": _EVALUATION,
        "train_sampling_strategy": "the schedule of tasks draws the rows",
        "length_column_name": "the schedule of tasks draws the rows",
        "do_predict": "use `invert-rl evaluate`",
    },
    no_effect={
        "average_tokens_across_devices": "the loss is always normalised over all ranks",
        "dataloader_drop_last": "every round is whole",
        "dataloader_pin_memory": "the loader gives rows without pixels",
        "do_train": "a recipe trains",
        "do_eval": "a recipe evaluates where it has rows to evaluate",
    },
)
"""Fields of `transformers.TrainingArguments`."""

BOUNDS = {
    "per_device_train_batch_size": (1, 1e9),
    "gradient_accumulation_steps": (1, 1e9),
    "learning_rate": (0.0, 1e6),
    "save_steps": (1e-9, 1e12),
    "eval_steps": (1e-9, 1e12),
    "seed": (0, 2**32 - 1),
    "data_seed": (0, 2**32 - 1),
    "dataloader_num_workers": (0, 1e6),
    "num_train_epochs": (1e-9, 1e9),
    "weight_decay": (0.0, 1e6),
    "adam_beta1": (0.0, 0.9999999),
    "adam_beta2": (0.0, 0.9999999),
    "adam_epsilon": (0.0, 1.0),
    "max_grad_norm": (0.0, 1e12),
    "warmup_steps": (0.0, 1e12),
    "logging_steps": (1e-9, 1e12),
    "save_total_limit": (1, 1e9),
    "eval_delay": (0.0, 1e12),
    "torch_empty_cache_steps": (1, 1e12),
    "ddp_bucket_cap_mb": (1, 1e6),
    "ddp_timeout": (1, 1e9),
}

VIDEO_BOUNDS = {"frame_memory_mb": (0, 1e9), "video_timeout": (0.0, 1e9)}
"""Of the recipes that have these."""

WHOLE_MODEL_OPTIMIZERS = ("galore", "apollo", "lomo")
"""Parts of the names of optimizers that are made of a model, by its layers' names."""

CHECKPOINTING = {"use_reentrant", "preserve_rng_state", "determinism_check", "debug", "early_stop", "context_fn"}
"""What `torch.utils.checkpoint` takes."""


def check(args: TrainingArguments, options: Options) -> None:
    """Raise `ValueError` for refused options, and for values that would end the run when they are first used.

    Warns of options without effect.
    """
    for item in fields(args):
        value = getattr(args, item.name)
        if item.name in options.refused and not _is_default(item, value):
            raise ValueError(f"{item.name} ({value!r}) is not supported: {options.refused[item.name]}")
        if item.name in options.no_effect and not _is_default(item, value):
            logger.warning("%s has no effect: %s", item.name, options.no_effect[item.name])
    within(args, BOUNDS)
    within(args, {name: bounds for name, bounds in VIDEO_BOUNDS.items() if hasattr(args, name)})
    if not isinstance(args.max_steps, int) or not (1 <= args.max_steps <= 10**12 or args.max_steps == -1):
        raise ValueError(f"max_steps must be a positive whole number, or -1 for num_train_epochs: {args.max_steps!r}")
    for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
        unknown = set(getattr(args, name, None) or {}) - CHECKPOINTING
        if unknown:
            raise ValueError(
                f"{name}: unknown {', '.join(sorted(unknown))}; it takes {', '.join(sorted(CHECKPOINTING))}"
            )
    _check_strategies(args, options)
    if args.push_to_hub and not args.hub_model_id:
        raise ValueError("push_to_hub needs --hub_model_id USER/NAME, the repository that RUN/model goes to")
    for name in ("hub_model_id", "hub_private_repo", "hub_token"):
        if getattr(args, name) and not args.push_to_hub:
            raise ValueError(f"{name} has no effect without --push_to_hub")


def check_after(args: TrainingArguments) -> None:
    """What can be checked after ``__post_init__`` only: device, optimizer, learning rate, loggers, loader."""
    if args.fp16 and args.device.type == "cpu":
        raise ValueError("fp16 needs a GPU: its loss is scaled, which CPUs do not do; take --bf16 or neither")
    loader = args.accelerator_config
    for name in ("split_batches", "dispatch_batches"):
        if getattr(loader, name):
            raise ValueError(f"accelerator_config.{name} is not supported: every rank draws its own part of a round")
    weights = [torch.nn.Parameter(torch.zeros(8))]
    try:
        if not any(kind in str(args.optim.value) for kind in WHOLE_MODEL_OPTIMIZERS):
            optimizer, settings = Trainer.get_optimizer_cls_and_kwargs(args)
            optimizer(weights, **{"lr": args.learning_rate, **settings})
            bare = copy.copy(args)
            bare.optim_args = None
            if args.optim_args and Trainer.get_optimizer_cls_and_kwargs(bare)[1] == settings:
                raise ValueError("this optimizer does not look at optim_args")
    except (ImportError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"optim {args.optim.value} with optim_args {args.optim_args!r}: {error}") from error
    schedule, kwargs = args.lr_scheduler_type.value, dict(args.lr_scheduler_kwargs or {})
    if schedule.startswith("constant") and kwargs:
        raise ValueError(f"lr_scheduler_kwargs {kwargs!r} have no effect with lr_scheduler_type {schedule}")
    if schedule == "constant" and args.warmup_steps:
        logger.warning("warmup_steps has no effect with lr_scheduler_type constant; constant_with_warmup heeds it")
    try:
        get_scheduler(
            args.lr_scheduler_type,
            torch.optim.SGD(weights, lr=args.learning_rate),
            num_warmup_steps=1,
            num_training_steps=10,
            scheduler_specific_kwargs=kwargs,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"lr_scheduler_type {schedule} with lr_scheduler_kwargs {kwargs!r}: {error}") from error
    for name, callback in zip(args.report_to, get_reporting_integration_callbacks(args.report_to), strict=True):
        try:
            callback()
        except (RuntimeError, ImportError) as error:
            raise ValueError(f"report_to {name}: {error}") from error


def check_model_options(model_args: ModelConfig) -> None:
    """Raise `ValueError` for options of TRL's `ModelConfig` that contradict each other or would be ignored."""
    one_of(model_args, {"dtype": ("auto", "bfloat16", "float16", "float32", None)})
    given = [
        name
        for name, item in type(model_args).__dataclass_fields__.items()
        if name.startswith(("lora_", "use_rslora", "use_dora")) and getattr(model_args, name) != item.default
    ]
    if given and not model_args.use_peft:
        raise ValueError(f"{given[0]} has no effect without --use_peft")
    for name in ("use_bnb_nested_quant", "bnb_4bit_quant_storage"):
        if getattr(model_args, name) and not model_args.load_in_4bit:
            raise ValueError(f"{name} has no effect without --load_in_4bit")


def one_of(args: Any, choices: Mapping[str, Collection[Any]]) -> None:
    """Raise `ValueError` for a field whose value is not among its choices."""
    for name, allowed in choices.items():
        value = getattr(args, name)
        if value not in allowed:
            listed = ", ".join(str(choice) for choice in allowed if not isinstance(choice, bool))
            raise ValueError(f"{name}: invalid choice: {value!r} (choose from {listed})")


def within(args: Any, bounds: Mapping[str, tuple[float, float]]) -> None:
    """Raise `ValueError` for a number outside its bounds, both included; None passes."""
    for name, (lowest, highest) in bounds.items():
        value = getattr(args, name)
        if value is not None and not (isinstance(value, int | float) and lowest <= value <= highest):
            raise ValueError(f"{name} must be a number from {lowest:g} to {highest:g}, found {value!r}")


def _check_strategies(args: TrainingArguments, options: Options) -> None:
    if str(getattr(args.save_strategy, "value", args.save_strategy)) == "best":
        raise ValueError(f"save_strategy best is not supported: {options.refused['load_best_model_at_end']}")
    if str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)) in ("reduce_lr_on_plateau", "greedy"):
        raise ValueError(
            f"lr_scheduler_type {args.lr_scheduler_type} is not supported: a resumed run could not repeat what it did"
        )


def _is_default(item: Field, value: Any) -> bool:
    default = item.default if item.default_factory is MISSING else item.default_factory()
    if default == "no" and value is False:  # what the command line's parser makes of "no"
        return True
    return bool(value == default)
