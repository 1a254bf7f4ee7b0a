"""Rollouts by vLLM with video, on top of TRL's `VLLMGeneration`.

TRL gives vLLM images only, and prompts whose placeholders the processor has expanded, which vLLM expands once more.
Here the engine gets each different prompt once, with one placeholder for its video, the frames with their true times,
and the number of completions wanted. Its own expansion is compared with the trainer's, token by token.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import is_peft_model
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.generation import vllm_generation as trl_vllm

from invert_rl.encoding import EncodedPrompt
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.video.clip import Clip

logger = logging.getLogger(__name__)

ENGINE_ARGUMENTS: dict[str, Any] = {"limit_mm_per_prompt": {"image": 0, "video": 1}}
"""What the engine is built with besides TRL's arguments: one video in a prompt and no memory set aside for images."""

PROCESSOR_ARGUMENTS = {"do_sample_frames": False, "do_resize": False}
"""Frames come sampled and resized: vLLM's processor must do neither again."""

BAN = -100.0
"""Added to the logits of tokens that must not be sampled; the largest that vLLM allows."""

LARGEST_DIFFERENCE = 0.05
"""Mean difference of log-probabilities between engine and trainer beyond which they do not run the same model."""

DIFFERENCE = "sampling/sampling_logp_difference/mean"
"""TRL's name of that mean in the log."""


class EngineMismatchError(RuntimeError):
    """The engine works on another prompt than the trainer; the message says where they differ."""


def check_vllm_settings(args: InvertGRPOConfig, model: PreTrainedModel) -> None:
    """Refuse settings with which the engine and the trainer cannot see the same video; raises `ValueError`."""
    if args.vllm_mode != "colocate":
        raise ValueError(f"vllm_mode: {args.vllm_mode}: TRL's server client carries no video; set vllm_mode: colocate")
    if model.config.model_type == "qwen2_5_vl" and not args.trained_positions:
        raise ValueError(
            "trained_positions: false: vLLM always uses Qwen2.5-VL's trained position rule, so rollouts and updates "
            "would see videos at different positions; set trained_positions: true or use_vllm: false"
        )


@contextmanager
def video_engine(args: InvertGRPOConfig, model: PreTrainedModel) -> Iterator[None]:
    """Have TRL, where it builds its engine inside this context, add `ENGINE_ARGUMENTS` and the trainer's precision.

    By itself vLLM computes in half precision also where the trainer computes in float32.
    """
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else model.dtype
    build = getattr(trl_vllm, "LLM", None)  # TRL imports the name only where vLLM is installed, and says so otherwise
    if build is None:
        yield
        return
    trl_vllm.LLM = lambda **arguments: build(**arguments, **ENGINE_ARGUMENTS, dtype=str(dtype).removeprefix("torch."))
    try:
        yield
    finally:
        trl_vllm.LLM = build


def push_weights(generation: trl_vllm.VLLMGeneration) -> None:
    """Give the engine the trainer's weights, and drop everything it remembers of the old ones.

    vLLM keeps vision features by content key. TRL empties the prefix cache only: a video that comes again would be
    answered from what the old vision tower saw.
    """
    generation.sync_weights()
    generation.llm.llm_engine.reset_encoder_cache()


def generate_with_vllm(
    generation: trl_vllm.VLLMGeneration,
    prompts: Sequence[EncodedPrompt],
    index: Sequence[int],
    banned_token_ids: Sequence[int],
    eos_token_ids: Sequence[int],
) -> tuple[list[list[int]], list[list[float]]]:
    """Generate one completion for each entry of ``index``, which says which of ``prompts`` it answers.

    Returns token ids up to and including the first end token, and the log-probability of each of them under the
    distribution that was sampled from (temperature and ban included). With tensor parallelism the ranks that share an
    engine all run the prompts of all of them, and each returns its own. Raises `EngineMismatchError` if the engine's
    prompt is not the trainer's.
    """
    if generation.enable_sleep_mode:
        if generation._llm_weights_sleeping:  # sleeping discards the weights
            push_weights(generation)
        generation.llm.wake_up(tags=["kv_cache"])
    wanted = Counter(index)
    requests = [(vllm_prompt(prompt), wanted[number]) for number, prompt in enumerate(prompts)]
    first = 0
    if generation.tensor_parallel_size > 1:
        gathered: list[Any] = [None] * generation.tensor_parallel_size
        torch.distributed.all_gather_object(gathered, requests, group=generation.tp_group)
        first = sum(len(part) for part in gathered[: torch.distributed.get_rank(group=generation.tp_group)])
        requests = [request for part in gathered for request in part]
        if is_peft_model(generation.model):  # or NCCL may hang: huggingface/trl#3671
            torch.distributed.barrier(device_ids=[generation.accelerator.local_process_index])
    outputs = generation.llm.generate(
        [prompt for prompt, _ in requests],
        sampling_params=[_sampling(generation, count, banned_token_ids, eos_token_ids) for _, count in requests],
        use_tqdm=False,
    )
    if generation.enable_sleep_mode:
        generation.llm.sleep(level=2)
        generation._llm_weights_sleeping = True
    own = outputs[first : first + len(prompts)]
    for prompt, output in zip(prompts, own, strict=True):
        _check_expansion(prompt, output.prompt_token_ids)
    completions = [iter(output.outputs) for output in own]
    chosen = [next(completions[number]) for number in index]
    logps = [
        [step[token].logprob for step, token in zip(completion.logprobs, completion.token_ids, strict=True)]
        for completion in chosen
    ]
    return [list(completion.token_ids) for completion in chosen], logps


def vllm_prompt(prompt: EncodedPrompt) -> dict[str, Any]:
    """The prompt as vLLM takes it: ids with one placeholder, frames with their times, a key for its caches."""
    if prompt.clip is None:
        raise ValueError("vLLM needs the frames of a prompt: encode it with `PromptEncoder`")
    return {
        "prompt_token_ids": prompt.unexpanded_ids,
        "multi_modal_data": {"video": [(prompt.clip.frames.numpy(), prompt.clip.vllm_metadata())]},
        "multi_modal_uuids": {"video": [content_key(prompt.clip)]},
        "mm_processor_kwargs": PROCESSOR_ARGUMENTS,
    }


def content_key(clip: Clip) -> str:
    """Name of a clip in vLLM's caches: file, part, frame size and times, as a hexadecimal digest.

    Two clips of one run with the same key have the same pixels, so that these need not be hashed in each round.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((clip.path, clip.start, clip.end, tuple(clip.frames.shape))).encode())
    digest.update(clip.timestamps.tobytes())
    return digest.hexdigest()


def _sampling(
    generation: trl_vllm.VLLMGeneration, count: int, banned_token_ids: Sequence[int], eos_token_ids: Sequence[int]
) -> Any:
    """vLLM's `SamplingParams` for ``count`` completions, with what TRL's settings say."""
    settings = {
        "n": count,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "top_k": generation.top_k,
        "min_p": generation.min_p or 0.0,
        "repetition_penalty": generation.repetition_penalty,
        "max_tokens": generation.max_completion_length,
        "logprobs": 0,  # of the sampled token only
        "stop_token_ids": list(eos_token_ids),
        "logit_bias": dict.fromkeys(banned_token_ids, BAN),
        **generation.generation_kwargs,
    }
    if generation.structured_outputs_regex is not None:
        settings["structured_outputs"] = trl_vllm.StructuredOutputsParams(regex=generation.structured_outputs_regex)
    return trl_vllm.SamplingParams(**settings)


def _check_expansion(prompt: EncodedPrompt, engine_ids: Sequence[int]) -> None:
    """Raise `EngineMismatchError` unless the engine expanded the video placeholder as the trainer's processor did."""
    if list(engine_ids) == prompt.input_ids:
        return
    pairs = zip(engine_ids, prompt.input_ids, strict=False)
    shorter = min(len(engine_ids), len(prompt.input_ids))
    place = next((place for place, (theirs, ours) in enumerate(pairs) if theirs != ours), shorter)
    raise EngineMismatchError(
        f"{prompt.clip.path if prompt.clip else 'a prompt'}: vLLM's prompt has {len(engine_ids)} tokens, the trainer's "
        f"{len(prompt.input_ids)}, and they differ from token {place} on: their processors expand the video "
        "differently; use the versions in docs/vllm.md"
    )


class SamplingAlarm(TrainerCallback):
    """Warns when engine and trainer disagree on the log-probabilities of what was sampled."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at TRL's `DIFFERENCE` of the step."""
        difference = (logs or {}).get(DIFFERENCE)
        if difference is not None and not difference <= LARGEST_DIFFERENCE:
            logger.warning(
                "step %d: vLLM and the trainer differ by %.3f on average in the log-probability of a sampled token "
                "(more than %.2f): they see different prompts, positions or weights, or compute in different "
                "precision; see docs/vllm.md",
                state.global_step,
                difference,
                LARGEST_DIFFERENCE,
            )
