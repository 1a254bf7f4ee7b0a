"""What becomes of the options of TRL's `SFTConfig` (`invert_rl.options`)."""

from __future__ import annotations

from dataclasses import replace

from trl import SFTConfig

from invert_rl.options import TRAINING, Options, check, one_of

_ROWS = "the data are rows of JSONL (docs/data.md), which the schedule of tasks draws"
_WHOLE = "a sample is a whole prompt with its video and its answer; nothing is cut or packed"
_ANSWER = "the loss is always that of the answer alone"

_TRAINING = replace(
    TRAINING,
    refused={name: why for name, why in TRAINING.refused.items() if name != "neftune_noise_alpha"},
)

SFT = _TRAINING | Options(
    passed_on=["router_aux_loss_coef", "loss_type", "activation_offloading", "neftune_noise_alpha"],
    refused={
        "model_init_kwargs": "use --dtype, --attn_implementation and --model_revision",
        "trust_remote_code": "the supported checkpoints need no code of their own",
        "chat_template_path": "prompts are made by --prompt",
        "dataset_text_field": _ROWS,
        "dataset_kwargs": _ROWS,
        "dataset_num_proc": _ROWS,
        "shuffle_dataset": _ROWS,
        "eos_token": "an answer ends as the checkpoint's chats do",
        "pad_token": "an answer ends as the checkpoint's chats do",
        "max_length": _WHOLE,
        "truncation_mode": _WHOLE,
        "packing": _WHOLE,
        "packing_strategy": _WHOLE,
        "padding_free": _WHOLE,
        "pad_to_multiple_of": _WHOLE,
        "eval_packing": _WHOLE,
        "completion_only_loss": _ANSWER,
        "assistant_only_loss": _ANSWER,
    },
    no_effect={},
)
"""Fields of `trl.SFTConfig`."""


def check_sft(args: SFTConfig) -> None:
    """Raise `ValueError` for an option of ``args`` that has no effect or would end the run later; see `Options`."""
    check(args, SFT)
    one_of(args, {"loss_type": ("nll", "dft")})
