"""Greedy completions by vLLM, with the prompts and frames that the transformers backend sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import ProcessorMixin
from vllm import LLM, SamplingParams

from data_prep.errors import DataError
from invert_rl.encoding import EncodedPrompt
from invert_rl.evaluation.predict import Complete
from invert_rl.grpo.vllm_rollout import BAN, ENGINE_ARGUMENTS, vllm_prompt
from invert_rl.models import never_sampled_ids

FITTING: Mapping[str, Any] = {"max_model_len": -1, "limit_mm_per_prompt": {"image": 0, "video": 1}}
"""One video; as long a prompt and answer as the model has positions for, or as the memory holds if that is less."""


def complete_with_vllm(
    name: str,
    revision: str | None,
    processor: ProcessorMixin,
    max_new_tokens: int,
    dtype: str,
    banned: Sequence[int] | None = None,
    limits: Mapping[str, Any] = FITTING,
) -> tuple[Complete, str, int]:
    """How an engine for the checkpoint completes prompts, token ids up to and including the end token.

    With its precision, and the most tokens that it takes for a prompt and its answer.

    ``banned`` are ids that no completion may hold, by default the processor's vision tokens. ``limits`` are
    `invert_rl.grpo.vllm_limits.engine_limits` of the videos that will be asked about. Completing raises `DataError` if
    the engine expands a video otherwise than the checkpoint's processor.
    """
    engine = LLM(model=name, revision=revision, dtype=dtype, **{**limits, **ENGINE_ARGUMENTS})
    sampling = SamplingParams(
        temperature=0.0,
        max_tokens=max_new_tokens,
        logit_bias=dict.fromkeys(never_sampled_ids(processor) if banned is None else banned, BAN),
    )

    def complete(prompts: Sequence[EncodedPrompt]) -> list[list[int]]:
        outputs = engine.generate([vllm_prompt(prompt) for prompt in prompts], sampling, use_tqdm=False)
        for prompt, output in zip(prompts, outputs, strict=True):
            if list(output.prompt_token_ids) != prompt.input_ids:
                raise DataError(
                    f"{prompt.clip.path if prompt.clip else 'a prompt'}: vLLM's prompt is not the processor's "
                    f"({len(output.prompt_token_ids)} tokens, {len(prompt.input_ids)}); use the versions in "
                    "docs/vllm.md, or --backend transformers"
                )
        return [list(output.outputs[0].token_ids) for output in outputs]

    config = engine.llm_engine.model_config
    return complete, str(config.dtype).removeprefix("torch."), int(config.max_model_len)
