"""Answers by vLLM, greedy or sampled, with the prompts and frames that the transformers backend sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import ProcessorMixin
from vllm import LLM, SamplingParams

from data_prep.errors import DataError
from invert_rl.encoding import EncodedPrompt
from invert_rl.evaluation.difficulty import SampleAnswers, stream_of
from invert_rl.evaluation.jobs import Job
from invert_rl.evaluation.predict import Complete
from invert_rl.grpo.vllm_rollout import BAN, ENGINE_ARGUMENTS, vllm_prompt
from invert_rl.models import never_sampled_ids
from invert_rl.schedule import RATING, generator


def complete_with_vllm(
    name: str,
    revision: str | None,
    processor: ProcessorMixin,
    max_new_tokens: int,
    dtype: str,
    limits: Mapping[str, Any],
    banned: Sequence[int] | None = None,
) -> tuple[Complete, str, int]:
    """How an engine for the checkpoint completes prompts, token ids up to and including the end token.

    With its precision, and the most tokens that it takes for a prompt and its answer.

    ``banned`` are ids that no completion may hold, by default the processor's vision tokens. ``limits`` are
    `invert_rl.grpo.vllm_limits.engine_limits` of the videos that will be asked about. Completing raises `DataError` if
    the engine expands a video otherwise than the checkpoint's processor.
    """
    engine = build_engine(name, revision, dtype, limits)
    banned = never_sampled_ids(processor) if banned is None else banned
    sampling = SamplingParams(temperature=0.0, max_tokens=max_new_tokens, logit_bias=dict.fromkeys(banned, BAN))

    def complete(prompts: Sequence[EncodedPrompt]) -> list[list[int]]:
        return [answers[0] for answers in answers_of(engine, prompts, [sampling] * len(prompts))]

    return complete, *_nature(engine)


def sample_with_vllm(
    name: str,
    revision: str | None,
    processor: ProcessorMixin,
    generations: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    dtype: str,
    limits: Mapping[str, Any],
) -> tuple[SampleAnswers, str, int]:
    """How an engine for the checkpoint samples several answers to each prompt, otherwise as `complete_with_vllm`.

    A request's seed depends on ``seed``, task and row id alone: batches and restarts draw the same numbers.
    """
    engine = build_engine(name, revision, dtype, limits)
    settings = {
        "n": generations,
        "temperature": temperature,
        "max_tokens": max_new_tokens,
        "logit_bias": dict.fromkeys(never_sampled_ids(processor), BAN),
    }

    def sample(prompts: Sequence[EncodedPrompt], jobs: Sequence[Job]) -> list[list[list[int]]]:
        seeds = [int(generator(seed, RATING, *stream_of(job)).integers(2**62)) for job in jobs]
        return answers_of(engine, prompts, [SamplingParams(**settings, seed=number) for number in seeds])

    return sample, *_nature(engine)


def build_engine(name: str, revision: str | None, dtype: str, limits: Mapping[str, Any]) -> LLM:
    """An engine for the checkpoint, made for videos of these limits."""
    return LLM(model=name, revision=revision, dtype=dtype, **{**limits, **ENGINE_ARGUMENTS})


def answers_of(
    engine: LLM, prompts: Sequence[EncodedPrompt], settings: Sequence[SamplingParams]
) -> list[list[list[int]]]:
    """Token ids of the answers to each prompt; raises `DataError` where the engine's prompt is another."""
    outputs = engine.generate([vllm_prompt(prompt) for prompt in prompts], list(settings), use_tqdm=False)
    for prompt, output in zip(prompts, outputs, strict=True):
        if list(output.prompt_token_ids) != prompt.input_ids:
            raise DataError(
                f"{prompt.clip.path if prompt.clip else 'a prompt'}: vLLM's prompt is not the processor's "
                f"({len(output.prompt_token_ids)} tokens, {len(prompt.input_ids)}); use the versions in "
                "docs/vllm.md, or --backend transformers"
            )
    return [[list(answer.token_ids) for answer in output.outputs] for output in outputs]


def _nature(engine: LLM) -> tuple[str, int]:
    """Precision, and the most tokens of a prompt and its answer."""
    config = engine.llm_engine.model_config
    return str(config.dtype).removeprefix("torch."), int(config.max_model_len)
