"""What becomes of the options of TRL's `GRPOConfig` (`invert_rl.options`), and which values rollouts can be given."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from transformers import PreTrainedConfig
from trl import GRPOConfig, ModelConfig

from data_prep.errors import DataError
from invert_rl.grpo.generation_options import check_generation, check_tokens
from invert_rl.options import TRAINING, Options, check, one_of, within

_CONTINUOUS = "transformers' continuous batching takes no video; use --use_vllm"

GRPO = TRAINING | Options(
    passed_on=[
        "router_aux_loss_coef",
        "disable_dropout",
        "cast_lm_head_to_fp32",
        "num_generations",
        "max_completion_length",
        "ds3_gather_for_generation",
        "pad_to_multiple_of",
        "generation_batch_size",
        "steps_per_generation",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "generation_kwargs",
        "chat_template_kwargs",
        "repetition_penalty",
        "use_vllm",
        "vllm_mode",
        "vllm_model_impl",
        "vllm_enable_sleep_mode",
        "vllm_structured_outputs_regex",
        "vllm_server_base_url",
        "vllm_server_host",
        "vllm_server_port",
        "vllm_server_timeout",
        "vllm_group_port",
        "vllm_gpu_memory_utilization",
        "vllm_max_model_length",
        "vllm_tensor_parallel_size",
        "beta",
        "num_iterations",
        "epsilon",
        "delta",
        "epsilon_high",
        "sapo_temperature_neg",
        "sapo_temperature_pos",
        "vespo_k_pos",
        "vespo_lambda_pos",
        "vespo_k_neg",
        "vespo_lambda_neg",
        "importance_sampling_level",
        "reward_weights",
        "multi_objective_aggregation",
        "scale_rewards",
        "loss_type",
        "mask_truncated_completions",
        "sync_ref_model",
        "ref_model_mixup_alpha",
        "ref_model_sync_steps",
        "top_entropy_quantile",
        "entropy_coef",
        "use_adaptive_entropy",
        "entropy_coef_min",
        "entropy_coef_max",
        "entropy_coef_delta",
        "entropy_target",
        "vllm_importance_sampling_correction",
        "vllm_importance_sampling_mode",
        "vllm_importance_sampling_clip_max",
        "vllm_importance_sampling_clip_min",
        "off_policy_mask_threshold",
        "use_bias_correction_kl",
        "log_completions",
        "num_completions_to_print",
        "log_unique_prompts",
        "log_completions_hub_repo",
        "vllm_importance_sampling_cap",
    ],
    refused={
        "model_init_kwargs": "use --dtype, --attn_implementation and --model_revision",
        "trust_remote_code": "the supported checkpoints need no code of their own",
        "num_generations_eval": "validation takes one greedy answer for each row",
        "shuffle_dataset": "the schedule draws rows in seeded passes; see docs/curriculum.md for another order",
        "cache_implementation": "a group's completions continue one cache of their prompt, which only the default can",
        "max_tool_calling_iterations": "there are no tools",
        "use_transformers_continuous_batching": _CONTINUOUS,
        "transformers_continuous_batching_config": _CONTINUOUS,
        "use_transformers_paged": _CONTINUOUS,
    },
    no_effect={"log_multimodal": "completions are logged with the names of their videos, never with the videos"},
)
"""Fields of `trl.GRPOConfig`."""

CHOICES: Mapping[str, Collection[Any]] = {
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "vllm_mode": ("colocate", "server"),
    "rounds_ahead": (0, 1, 2),
    "vllm_model_impl": ("vllm", "transformers", "auto"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
}
"""What would be looked up when it is first computed with, or never."""

BOUNDS = {
    "temperature": (1e-3, 1e3),
    "top_p": (1e-6, 1.0),
    "top_k": (-1, 1e9),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-3, 1e3),
    "beta": (0.0, 1e6),
    "epsilon": (0.0, 1e6),
    "epsilon_high": (0.0, 1e6),
    "delta": (1e-9, 1e6),
    "num_iterations": (1, 1e6),
    "top_entropy_quantile": (1e-6, 1.0),
    "ref_model_mixup_alpha": (0.0, 1.0),
    "ref_model_sync_steps": (1, 1e9),
    "refill_groups": (0, 50),
    "num_generations": (2, 1e6),
    "steps_per_generation": (1, 1e9),
    "generation_batch_size": (1, 1e9),
    "max_prompt_length": (1, 1e9),
    "eval_samples": (0, 1e12),
    "vision_memory_mb": (0, 1e9),
    "difficulty_outside": (0.0, 1e9),
    "toy_train_clips": (1, 1e9),
    "toy_test_clips": (1, 1e9),
}

OPTION_OF = {
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")},
    **dict.fromkeys(("max_new_tokens", "max_length", "max_tokens"), "max_completion_length"),
    **dict.fromkeys(("num_return_sequences", "n"), "num_generations"),
}
"""Entries of ``generation_kwargs`` that are options of their own, under which scoring learns of them too."""

GENERATION = [
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
    "sequence_bias",
    "no_repeat_ngram_size",
    "min_new_tokens",
    "min_length",
    "exponential_decay_length_penalty",
    "do_sample",
    "renormalize_logits",
    "remove_invalid_values",
]
"""Entries of ``generation_kwargs`` for rollouts by transformers."""

VLLM_GENERATION = ["presence_penalty", "frequency_penalty", "min_tokens", "bad_words", "allowed_token_ids"]
"""Entries of ``generation_kwargs`` for rollouts by vLLM."""


def check_grpo(args: GRPOConfig) -> None:
    """Raise `ValueError` for an option of ``args`` that has no effect or would end the run later; see `Options`."""
    check(args, GRPO)
    one_of(args, CHOICES)
    within(args, BOUNDS)
    if not isinstance(args.max_completion_length, int) or args.max_completion_length < 1:
        raise ValueError(f"max_completion_length must be a positive whole number, found {args.max_completion_length!r}")
    if args.sync_ref_model and args.beta == 0:
        raise ValueError("sync_ref_model: with beta 0 there is no reference model; set beta above 0")
    if args.rounds_ahead:
        check_rounds_ahead(args)
    known = VLLM_GENERATION if args.use_vllm else GENERATION
    if not isinstance(args.generation_kwargs, dict | str | None):
        raise ValueError(f"generation_kwargs must be a mapping, found {args.generation_kwargs!r}")
    given = json.loads(args.generation_kwargs) if isinstance(args.generation_kwargs, str) else args.generation_kwargs
    for name in given or {}:
        if name in OPTION_OF:
            raise ValueError(f"generation_kwargs.{name}: use --{OPTION_OF[name]}, of which scoring learns as well")
        if name not in known:
            raise ValueError(
                f"generation_kwargs.{name} is not supported by rollouts of "
                f"{'vLLM' if args.use_vllm else 'transformers'} here; choose from {', '.join(known)}"
            )
    check_generation(given or {}, args.max_completion_length)


def check_rounds_ahead(args: GRPOConfig) -> None:
    """Raise `ValueError` for what rounds that are completed ahead of time cannot go with."""
    about = f"rounds_ahead {args.rounds_ahead}"
    if not (args.use_vllm and args.vllm_mode == "server"):
        raise ValueError(
            f"{about}: only a server can make completions while this process trains; use --use_vllm true "
            "--vllm_mode server, or --rounds_ahead 0"
        )
    if not args.vllm_importance_sampling_correction:
        raise ValueError(
            f"{about}: completions are of older weights, which --vllm_importance_sampling_correction true accounts for"
        )
    if args.refill_groups:
        raise ValueError(
            f"{about}: refill_groups asks for more completions in the middle of a round, when the server is busy with "
            "the next one; set one of them to 0"
        )
    if args.online_difficulty:
        raise ValueError(
            f"{about}: online_difficulty draws a round by what the rounds before it earned, which is not known yet "
            "when it is made ahead; use one of them"
        )


def check_for_model(args: GRPOConfig, model_args: ModelConfig, config: PreTrainedConfig) -> None:
    """Raise `DataError` for an option that does not go with the checkpoint of ``config``, before its weights load."""
    if args.cast_lm_head_to_fp32 and config.get_text_config().tie_word_embeddings:
        raise DataError(
            "cast_lm_head_to_fp32 is not supported for a model whose head is its embedding: TRL looks for the "
            "embedding where this model does not have it"
        )
    try:
        check_tokens(args.generation_kwargs or {}, config.get_text_config().vocab_size)
    except ValueError as error:
        raise DataError(str(error)) from error
    if args.sync_ref_model and model_args.use_peft:
        raise DataError("sync_ref_model: with LoRA the reference is the base model, which stays as it is")
    if args.router_aux_loss_coef and not hasattr(config.get_text_config(), "output_router_logits"):
        raise DataError("router_aux_loss_coef: the model has no experts to balance")
