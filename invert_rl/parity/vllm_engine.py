"""vLLM as training uses it: TRL's `VLLMGeneration` with this library's prompts, bans, limits and weight push."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, ProcessorMixin
from trl.generation import vllm_generation as trl_vllm

from invert_rl.encoding import EncodedPrompt
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.grpo.vllm_answers import read_completions
from invert_rl.grpo.vllm_prompts import served_prompt, vllm_prompt
from invert_rl.grpo.vllm_rollout import check_vllm_settings, push_weights, video_engine
from invert_rl.parity.engines import Reply, Seen


class VLLMEngine:
    """An engine in this process (``args.vllm_mode: colocate``) or a server (``server``) for ``model``'s checkpoint."""

    def __init__(self, args: InvertGRPOConfig, model: PreTrainedModel, processor: ProcessorMixin, rows: int) -> None:
        check_vllm_settings(args, model)
        with video_engine(args, model):
            self.generation = trl_vllm.VLLMGeneration(
                model=model,
                accelerator=Accelerator(cpu=args.use_cpu),
                processing_class=processor,
                mode=args.vllm_mode,
                server_base_url=args.vllm_server_base_url,
                server_timeout=args.vllm_server_timeout,
                gpu_memory_utilization=args.vllm_gpu_memory_utilization,
                max_model_length=args.vllm_max_model_length,
                max_num_seqs=max(8, rows),
                temperature=args.temperature,
                max_completion_length=args.max_completion_length,
            )
        self.video_token = processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")
        self.looked_at: dict[tuple[int, ...], Seen] = {}
        if args.vllm_mode == "server":
            self.about, self.block = facts_of_server(self.generation.vllm_client)
        else:
            self.about, self.block = facts_of(self.generation.llm)
            self._look_at_positions()

    def complete(self, prompts: Sequence[EncodedPrompt], settings: dict[str, Any]) -> list[Reply]:
        """All prompts in one call, or one request for each of them."""
        if self.generation.mode == "server":
            return [self._ask(prompt, settings) for prompt in prompts]
        outputs = self.generation.llm.generate(
            [vllm_prompt(prompt) for prompt in prompts],
            sampling_params=[trl_vllm.SamplingParams(**settings) for _ in prompts],
            use_tqdm=False,
        )
        return [
            Reply(
                list(output.prompt_token_ids),
                [list(one.token_ids) for one in output.outputs],
                [
                    [step[token].logprob for step, token in zip(one.logprobs, one.token_ids, strict=True)]
                    for one in output.outputs
                ],
            )
            for output in outputs
        ]

    def seen(self, prompt: EncodedPrompt) -> Seen | None:
        """What the engine's model reckoned, of the last time that it began this prompt; None for a server."""
        return self.looked_at.get(self._text_of(prompt.input_ids))

    def prefix_length(self, prompt: EncodedPrompt) -> int:
        """Whole blocks before the last token."""
        return (len(prompt.input_ids) - 1) // self.block * self.block

    def push(self) -> None:
        """`push_weights`, of all weights."""
        self.generation.has_frozen = False
        push_weights(self.generation)

    def close(self) -> None:
        """End the way for weights to a server."""
        if self.generation.mode == "server":
            self.generation.vllm_client.close_communicator()

    def _ask(self, prompt: EncodedPrompt, settings: dict[str, Any]) -> Reply:
        client = self.generation.vllm_client
        body = {"model": client.model, **served_prompt(prompt, client.dtype), "sampling_params": settings}
        answer = client._ask("POST", "inference/v1/generate", body, client.limit)
        vocabulary = client.config.get_text_config().vocab_size
        found = read_completions(answer, {**settings, "logit_bias": {}}, vocabulary)  # whether it bans is checked here
        return Reply(None, [ids for ids, _ in found], [logps for _, logps in found])

    def _look_at_positions(self) -> None:
        """Remember what the engine's model makes of a prompt each time that the runner asks it."""
        model = self.generation.llm.llm_engine.model_executor.driver_worker.model_runner.get_model()
        reckon = model.get_mrope_input_positions

        def remember(input_tokens: list[int], mm_features: list[Any]) -> Any:
            positions, delta = reckon(input_tokens, mm_features)
            seconds = [feature.data.get("second_per_grid_ts") for feature in mm_features if feature.data is not None]
            told = None if not seconds or seconds[0] is None else float(seconds[0].data)
            self.looked_at[self._text_of(input_tokens)] = Seen(torch.as_tensor(positions), told)
            return positions, delta

        model.get_mrope_input_positions = remember

    def _text_of(self, ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(token for token in ids if token != self.video_token)


def facts_of(llm: Any) -> tuple[dict[str, Any], int]:
    """What an engine in this process says of itself, and the tokens of a block of its cache."""
    import vllm

    config = llm.llm_engine.vllm_config
    runner = type(llm.llm_engine.model_executor.driver_worker.model_runner)
    about = {
        "name": "vllm",
        "version": vllm.__version__,
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "runner": f"{runner.__module__}.{runner.__name__}",
        "max_model_len": config.model_config.max_model_len,
        "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
        "prefix_caching": config.cache_config.enable_prefix_caching,
    }
    return about, config.cache_config.block_size


def facts_of_server(client: Any) -> tuple[dict[str, Any], int]:
    """The same of a server."""
    info = client.get_server_info()
    about = {
        "name": "vllm server",
        "version": client._ask("GET", "version")["version"],
        "dtype": info["model_config"]["dtype"].removeprefix("torch."),
        "max_model_len": info["model_config"]["max_model_len"],
    }
    return about, info["cache_config"]["block_size"]
