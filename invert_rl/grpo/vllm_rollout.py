"""Rollouts by vLLM with video, on top of TRL's `VLLMGeneration`.

TRL gives vLLM images only, and prompts whose placeholders the processor has expanded, which vLLM expands once more.
Here the engine gets each different prompt once, with one placeholder for its video, the frames with their true times,
and the number of completions wanted. Its own expansion is compared with the trainer's, token by token. A server gets
what the trainer's processor made: vllm_server.py.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather_object, is_peft_model
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.generation import vllm_generation as trl_vllm

from invert_rl.encoding import EncodedPrompt
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.grpo.vllm_limits import engine_limits
from invert_rl.grpo.vllm_prompts import vllm_prompt
from invert_rl.grpo.vllm_server import ServerError, ServerLostError, VideoClient
from invert_rl.grpo.vllm_weights import send_weights

logger = logging.getLogger(__name__)

ENGINE_ARGUMENTS: dict[str, Any] = {}
"""What an engine is built with besides TRL's arguments and `engine_limits`; they win."""

GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Sampling settings of evaluation."""

GREEDY_KEEPS = ("n", "max_tokens", "logprobs", "stop_token_ids", "logit_bias")
"""What evaluation has from the run's."""

BAN = -100.0
"""Added to the logits of tokens that must not be sampled; the largest that vLLM allows."""

LARGEST_DIFFERENCE = 0.05
"""Mean difference of log-probabilities between engine and trainer beyond which they do not run the same model."""

FIRST_ROUND = {"full": 0.05, "half": 0.1}
"""The same for the first round of a run, in float32 and in half precision, beyond which it stops. Kernels of a GPU and
vLLM's sampler there round otherwise than the trainer: a mean of hundredths in bfloat16."""

RESTARTS = 3
"""How often a server may be lost in one round."""

DIFFERENCE = "sampling/sampling_logp_difference/mean"
"""TRL's name of that mean in the log."""


class EngineMismatchError(RuntimeError):
    """The engine works on another prompt than the trainer; the message says where they differ."""


def check_vllm_settings(args: InvertGRPOConfig, model: PreTrainedModel) -> None:
    """Refuse settings with which the engine and the trainer cannot see the same video; raises `ValueError`."""
    if model.config.model_type == "qwen2_5_vl" and not args.trained_positions:
        raise ValueError(
            "trained_positions: false: vLLM always uses Qwen2.5-VL's trained position rule, so rollouts and updates "
            "would see videos at different positions; set trained_positions: true or use_vllm: false"
        )


@contextmanager
def video_engine(args: InvertGRPOConfig, model: PreTrainedModel) -> Iterator[None]:
    """Have TRL, where it builds its engine or its client inside this context, build one for video.

    The engine gets the limits of the run's videos (`engine_limits`; a ``vllm_max_model_length`` that is given wins) and
    the trainer's precision: by itself vLLM computes in half precision also where the trainer computes in float32.
    """
    dtype = engine_dtype(args, model)
    limits = limits_of(args, model)
    client = trl_vllm.VLLMClient
    build = getattr(trl_vllm, "LLM", None)  # TRL imports the name only where vLLM is installed, and says so otherwise
    trl_vllm.VLLMClient = partial(VideoClient, dtype=dtype, config=model.config)
    if build is not None:
        named = str(dtype).removeprefix("torch.")
        trl_vllm.LLM = lambda **arguments: build(**{**arguments, **limits, **ENGINE_ARGUMENTS, "dtype": named})
    try:
        yield
    finally:
        trl_vllm.VLLMClient = client
        if build is not None:
            trl_vllm.LLM = build


def limits_of(args: InvertGRPOConfig, model: PreTrainedModel) -> dict[str, Any]:
    """`engine_limits` of a run, its largest drawn frame budget included; a ``vllm_max_model_length`` given stays."""
    settings, drawn = args.frame_settings(model.config.vision_config.patch_size), args.frame_budgets()
    settings = replace(
        settings,
        max_frames=max([settings.max_frames, *drawn.max_frames]),
        total_pixels=max([settings.total_pixels, *drawn.total_pixels]),
    )
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limits = engine_limits(settings, args.max_completion_length or 0, args.max_prompt_length, positions)
    if args.vllm_max_model_length is not None:
        limits["max_model_len"] = args.vllm_max_model_length
    return limits


def engine_length(args: InvertGRPOConfig, model: PreTrainedModel) -> int | None:
    """Most tokens of a prompt and its answer in the engine of this process; None without one.

    A server's limit is its own; it refuses a longer prompt by itself.
    """
    if not args.use_vllm or args.vllm_mode == "server":
        return None
    return limits_of(args, model)["max_model_len"]


def engine_dtype(args: InvertGRPOConfig, model: PreTrainedModel) -> torch.dtype:
    """The precision in which the trainer's forward computes."""
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else model.dtype


def connect_all_ranks(generation: trl_vllm.VLLMGeneration, args: InvertGRPOConfig, model: PreTrainedModel) -> None:
    """Server mode: a client for the ranks to which TRL gives none, so that each asks for its own prompts."""
    if generation.mode == "server" and not generation.accelerator.is_main_process:
        generation.vllm_client = VideoClient(
            base_url=generation.server_base_url or f"http://{generation.server_host}:{generation.server_port}",
            connection_timeout=generation.server_timeout,
            dtype=engine_dtype(args, model),
            config=None if model is None else model.config,
        )


def push_weights(generation: trl_vllm.VLLMGeneration) -> None:
    """Give the engine the trainer's weights, and drop everything it remembers of the old ones.

    vLLM keeps vision features by content key. TRL empties the prefix cache only: a video that comes again would be
    answered from what the old vision tower saw.
    """
    if generation.mode == "server":
        _with_server(generation, push=True)
    else:
        send_weights(generation)
        generation.llm.llm_engine.reset_encoder_cache()


def generate_with_vllm(
    generation: trl_vllm.VLLMGeneration,
    prompts: Sequence[EncodedPrompt],
    index: Sequence[int],
    banned_token_ids: Sequence[int],
    eos_token_ids: Sequence[int],
    greedy: bool = False,
    seeds: Sequence[int] | None = None,
) -> tuple[list[list[int]], list[list[float]]]:
    """Generate one completion for each entry of ``index``, which says which of ``prompts`` it answers.

    ``greedy``: take the likeliest token and nothing of the run's sampling, as evaluation does. ``seeds``: one for each
    of ``prompts``, from which the engine's choices follow; without them they follow from all that it did before.

    Returns token ids up to and including the first end token, and the log-probability of each of them under the
    distribution that was sampled from (temperature and ban included). With tensor parallelism the ranks that share an
    engine all run the prompts of all of them, and each returns its own. Raises `EngineMismatchError` if the engine's
    prompt is not the trainer's.
    """
    settings = _settings(generation, len(prompts), index, banned_token_ids, eos_token_ids, seeds)
    if greedy:
        settings = [{**{name: one[name] for name in GREEDY_KEEPS}, **GREEDY} for one in settings]
    if generation.mode == "server":
        answers = _with_server(generation, ask=lambda: generation.vllm_client.complete(prompts, settings))
    else:
        answers = _complete_here(generation, prompts, settings)
    chosen = _in_order(answers, index)
    return [ids for ids, _ in chosen], [logps for _, logps in chosen]


def complete_by_server(
    generation: trl_vllm.VLLMGeneration,
    prompts: Sequence[EncodedPrompt],
    index: Sequence[int],
    banned_token_ids: Sequence[int],
    eos_token_ids: Sequence[int],
    seeds: Sequence[int],
) -> list[tuple[list[int], list[float]]]:
    """The same by a server, for another thread than the trainer's: nothing of it is collective.

    Returns token ids and log-probabilities for each entry of ``index``. Raises `ServerLostError` for a server that is
    gone, or that has not the weights which it was given.
    """
    settings = _settings(generation, len(prompts), index, banned_token_ids, eos_token_ids, seeds)
    answers = _same_server(generation, generation.vllm_client.complete(prompts, settings))
    return _in_order(answers, index)


def _settings(
    generation: trl_vllm.VLLMGeneration,
    count: int,
    index: Sequence[int],
    banned_token_ids: Sequence[int],
    eos_token_ids: Sequence[int],
    seeds: Sequence[int] | None,
) -> list[dict[str, Any]]:
    """The settings of ``count`` prompts, of which ``index`` wants each so and so often."""
    wanted = Counter(index)
    settings = [
        sampling_settings(generation, wanted[number], banned_token_ids, eos_token_ids) for number in range(count)
    ]
    if seeds is not None:
        settings = [{**one, "seed": seed} for one, seed in zip(settings, seeds, strict=True)]
    return settings


def _in_order(
    answers: Sequence[Sequence[tuple[list[int], list[float]]]], index: Sequence[int]
) -> list[tuple[list[int], list[float]]]:
    """One completion for each entry of ``index``, which says of which prompt's answers."""
    completions = [iter(answer) for answer in answers]
    return [next(completions[number]) for number in index]


def _with_server(generation: trl_vllm.VLLMGeneration, ask: Callable[[], Any] = lambda: None, push: bool = False) -> Any:
    """What ``ask`` returns, after a push of the weights if ``push``; a collective call.

    A server that is lost is waited for. One that was started again has the weights of its start: it is attached anew,
    gets the trainer's and is asked again, on all ranks, up to `RESTARTS` times.
    """
    client, state = generation.vllm_client, generation.accelerator
    lost: str | None = None
    for _ in range(RESTARTS + 1):
        if push or lost is not None:
            # the main process sends; others may ask only then
            _, lost = _on_all_ranks(lambda: send_weights(generation))
            generation.server_started = client.started()
        if lost is None:
            answer, lost = _on_all_ranks(lambda: _same_server(generation, ask()))
        if lost is None:
            return answer
        generation.has_frozen = False
        logger.warning("%s; waiting up to %g s for it to be back", lost, generation.server_timeout)
        client.attach_again(generation.server_timeout, state.device if state.is_main_process else None)
        state.wait_for_everyone()
    raise ServerError(f"{lost}; it was lost {RESTARTS + 1} times in one round")


def _on_all_ranks(function: Callable[[], Any]) -> tuple[Any, str | None]:
    """What ``function`` returns, and why the server was lost if it was on any rank; a collective call."""
    result, lost = None, None
    try:
        result = function()
    except ServerLostError as error:
        lost = str(error)
    everywhere = [text for text in gather_object([lost]) if text is not None]
    return result, everywhere[0] if everywhere else None


def _same_server(generation: trl_vllm.VLLMGeneration, answer: Any) -> Any:
    """``answer``; raises `ServerLostError` if another process gave it than the one that has the weights."""
    began = getattr(generation, "server_started", None)
    if began is not None and generation.vllm_client.started() != began:
        raise ServerLostError(
            f"{generation.vllm_client.base_url}: the server was started again since it got the weights"
        )
    return answer


def _complete_here(
    generation: trl_vllm.VLLMGeneration, prompts: Sequence[EncodedPrompt], settings: Sequence[dict[str, Any]]
) -> list[list[tuple[list[int], list[float]]]]:
    """For each prompt the completions of the engine in this process: token ids and log-probabilities."""
    if generation.enable_sleep_mode:
        if generation._llm_weights_sleeping:  # sleeping discards the weights
            push_weights(generation)
        generation.llm.wake_up(tags=["kv_cache"])
    requests = list(zip(map(vllm_prompt, prompts), settings, strict=True))
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
        sampling_params=[_sampling_params(setting) for _, setting in requests],
        use_tqdm=False,
    )
    if generation.enable_sleep_mode:
        generation.llm.sleep(level=2)
        generation._llm_weights_sleeping = True
    own = outputs[first : first + len(prompts)]
    for prompt, output in zip(prompts, own, strict=True):
        _check_expansion(prompt, output.prompt_token_ids)
    return [
        [
            (
                list(completion.token_ids),
                [step[token].logprob for step, token in zip(completion.logprobs, completion.token_ids, strict=True)],
            )
            for completion in output.outputs
        ]
        for output in own
    ]


def sampling_settings(
    generation: trl_vllm.VLLMGeneration, count: int, banned_token_ids: Sequence[int], eos_token_ids: Sequence[int]
) -> dict[str, Any]:
    """Fields of vLLM's `SamplingParams` for ``count`` completions, with what TRL's settings say."""
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
        settings["structured_outputs"] = {"regex": generation.structured_outputs_regex}
    return settings


def _sampling_params(settings: dict[str, Any]) -> Any:
    """vLLM's `SamplingParams` for an engine in this process."""
    if isinstance(settings.get("structured_outputs"), dict):
        structured = trl_vllm.StructuredOutputsParams(**settings["structured_outputs"])
        settings = {**settings, "structured_outputs": structured}
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


def check_first_round(difference: float, args: InvertGRPOConfig, model: PreTrainedModel) -> None:
    """Raise `EngineMismatchError` where engine and trainer do not agree before anything was trained.

    ``difference`` is TRL's `DIFFERENCE` of the round. Sampling settings whose probabilities the trainer does not have,
    and quantized weights, which the engine rounds by itself, are left to `SamplingAlarm`.
    """
    plain = args.top_p == 1.0 and not args.top_k and not args.min_p and args.repetition_penalty == 1.0
    if not plain or getattr(model.config, "quantization_config", None) is not None:
        return
    limit = FIRST_ROUND["full" if engine_dtype(args, model) == torch.float32 else "half"]
    if not difference <= limit:
        raise EngineMismatchError(
            f"in the first round vLLM and the trainer differ by {difference:.3f} on average in the log-probability of "
            f"a sampled token (more than {limit}): they see different prompts, positions or weights, or compute in "
            "different precision; `invert-rl parity` says which (docs/parity.md)"
        )


class SamplingAlarm(TrainerCallback):
    """Warns when engine and trainer disagree on the log-probabilities of what was sampled.

    Args:
        rounds_ahead: by how many rounds' updates they may differ.
    """

    def __init__(self, rounds_ahead: int = 0) -> None:
        self.rounds_ahead = rounds_ahead

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
                "(more than %.2f): %sthey see different prompts, positions or weights, or compute in different "
                "precision; see docs/vllm.md",
                state.global_step,
                difference,
                LARGEST_DIFFERENCE,
                "one update changes this much (rounds_ahead; a lower learning rate changes less), or "
                if self.rounds_ahead
                else "",
            )
