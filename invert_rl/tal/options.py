"""What becomes of the options of `transformers.TrainingArguments` in the supervised recipes (`invert_rl.options`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from invert_rl.options import TRAINING, Options

_TESTS = (
    "the test set is scored before and after; on the way by --evaluate_every (train_actionvlm, distill_wtal) or "
    "--evaluate_epochs (train_psftr)"
)
_LAST = "the last step is reported; the best test on the way is shown beside it and chooses nothing"
_BATCHES = "a batch is drawn as a whole, by seed and step alone"
_LENGTHS = "clips and videos differ in length, and each new length would be compiled again"
_GROUPS = "each part of the model has its own learning rate and weight decay"
_LOADER = "the loader keeps its workers as PyTorch does by default"
_HUB = "when the run is finished, hand RUN/model on with `invert-rl push`"
_SMALL = "the model needs little memory"
_SHARDS = "its losses and tests were never run on a sharded model; start it by DDP or in one process"
_ADAM = "the localizer is trained by Adam with an L2 term, as DELU's code does"
_CONSTANT = "learning rates are constant, that of the reconstruction falls by --reconstruction_warmup"


def _with(table: Options, refused: Mapping[str, str], passed_on: Iterable[str] = ()) -> Options:
    """The table with these fields in other places."""
    moved = {*refused, *passed_on}
    return replace(
        table,
        passed_on=[*(name for name in table.passed_on if name not in moved), *passed_on],
        refused={**{name: why for name, why in table.refused.items() if name not in moved}, **refused},
        no_effect={name: why for name, why in table.no_effect.items() if name not in moved},
    )


SUPERVISED = replace(
    _with(
        TRAINING,
        refused={
            **dict.fromkeys(
                [
                    "eval_strategy",
                    "eval_steps",
                    "eval_delay",
                    "eval_on_start",
                    "prediction_loss_only",
                    "eval_do_concat_batches",
                    "eval_use_gather_object",
                    "eval_accumulation_steps",
                    "include_for_metrics",
                    "batch_eval_metrics",
                    "label_names",
                ],
                _TESTS,
            ),
            **dict.fromkeys(["load_best_model_at_end", "metric_for_best_model", "greater_is_better"], _LAST),
            **dict.fromkeys(
                [
                    "data_seed",
                    "auto_find_batch_size",
                    "train_sampling_strategy",
                    "length_column_name",
                    "ignore_data_skip",
                    "remove_unused_columns",
                ],
                _BATCHES,
            ),
            **dict.fromkeys(["torch_compile", "torch_compile_backend", "torch_compile_mode"], _LENGTHS),
            **dict.fromkeys(
                [
                    "dataloader_persistent_workers",
                    "dataloader_prefetch_factor",
                    "dataloader_multiprocessing_context",
                    "dataloader_in_order",
                ],
                _LOADER,
            ),
            **dict.fromkeys(
                [
                    "push_to_hub",
                    "hub_model_id",
                    "hub_private_repo",
                    "hub_token",
                    "hub_strategy",
                    "hub_always_push",
                    "hub_revision",
                ],
                _HUB,
            ),
            "optim_target_modules": _GROUPS,
            "neftune_noise_alpha": "it is not part of these losses",
            "use_cache": "training never uses a cache, generating always does",
            "include_num_input_tokens_seen": "a batch has no tokens, or those of text and video together",
            "per_device_eval_batch_size": "use --eval_batch_size (train_llavaction), --evaluation_batch (train_psftr)",
            "enable_jit_checkpoint": "a signal ends a run with a checkpoint as it is",
            "do_predict": "use `invert-rl detect`, `invert-rl evaluate-mqa` and the like",
        },
        passed_on=["dataloader_pin_memory"],
    ),
    no_effect={
        "average_tokens_across_devices": "a part's loss is a mean of its own, and parts count the same",
        "dataloader_drop_last": "every batch is whole",
        "do_train": "a recipe trains",
        "do_eval": "a recipe evaluates where it has rows to evaluate",
    },
)
"""Of all four; as they are, of train_llavaction."""

_OF_ONE_PROCESS = dict.fromkeys(["fsdp", "fsdp_config", "deepspeed"], _SHARDS)
_CHECKPOINTING = dict.fromkeys(
    [
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
    ],
    _SMALL,
)

ACTIONVLM = _with(SUPERVISED, _OF_ONE_PROCESS)
"""Of train_actionvlm."""

PSFTR = _with(SUPERVISED, {**_OF_ONE_PROCESS, **_CHECKPOINTING})
"""Of train_psftr."""

WTAL = _with(
    PSFTR,
    {
        **dict.fromkeys(["optim", "optim_args"], _ADAM),
        **dict.fromkeys(["lr_scheduler_kwargs", "warmup_steps"], _CONSTANT),
        "num_train_epochs": "use --max_steps",
    },
)
"""Of distill_wtal."""
