"""An engine in plain transformers, with what vLLM has: own expansion, prefix cache, vision cache, pushed weights.

It needs no GPU and no server. It can be broken on purpose (`FAULTS`), to see that the comparison names what is wrong.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
import transformers
from transformers import DynamicCache, PreTrainedModel, ProcessorMixin

from invert_rl.encoding import EncodedPrompt
from invert_rl.grpo.vllm_prompts import vllm_prompt
from invert_rl.models import vision_language_model
from invert_rl.parity.engines import Reply, Seen

FAULTS = {
    "placeholders": "takes every other frame",
    "frame_times": "takes the video for twice as long as it is",
    "stock_positions": "counts Qwen2.5-VL's positions as transformers does",
    "half_precision": "computes in bfloat16 and says float32",
    "banned_tokens": "does not heed the ban of vision tokens",
    "raw_logprobs": "reports log-probabilities before temperature and ban",
    "stale_weights": "does not take new weights",
    "stale_prefix": "keeps its prefix cache over a change of weights",
    "stale_vision": "keeps features of videos over a change of weights",
}
"""Ways to break the engine, and what each does."""


BLOCK = 16
"""Tokens of a block of the prefix cache."""


class TransformersEngine:
    """Samples token by token from a model of its own, prompt by prompt.

    Args:
        model: loaded apart from the trainer's, on the device and in the precision to compute in.
        processor: of the checkpoint.
        trainer: the model whose weights `push` takes.
        fault: one of `FAULTS`.
    """

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, trainer: PreTrainedModel, fault: str | None = None
    ) -> None:
        dtype = str(model.dtype).removeprefix("torch.")
        self.about = {"name": "transformers", "version": transformers.__version__, "dtype": dtype}
        self.processor, self.trainer, self.fault = processor, trainer, fault
        self.model = (model.to(torch.bfloat16) if fault == "half_precision" else model).eval()
        if fault == "stock_positions":
            vision_language_model(self.model).__dict__.pop("get_rope_index", None)
        self.prefixes: dict[str, DynamicCache] = {}
        self.features: dict[str, Any] = {}
        self.last: dict[str, Seen] = {}
        self.key = ""
        visual = vision_language_model(self.model).visual
        compute = visual.forward

        def remember(_self: Any, *args: Any, **kwargs: Any) -> Any:
            if self.key not in self.features:
                self.features[self.key] = compute(*args, **kwargs)
            return copy.copy(self.features[self.key])  # the model takes it apart

        visual.forward = MethodType(remember, visual)

    def complete(self, prompts: Sequence[EncodedPrompt], settings: dict[str, Any]) -> list[Reply]:
        """Answers one prompt after the other."""
        generator = torch.Generator().manual_seed(settings.get("seed", 0))
        return [self._answer(vllm_prompt(prompt), settings, generator) for prompt in prompts]

    def seen(self, prompt: EncodedPrompt) -> Seen | None:
        """Positions and seconds of the last time that it completed this prompt."""
        return self.last.get(_key(vllm_prompt(prompt)))

    def prefix_length(self, prompt: EncodedPrompt) -> int:
        """Tokens of whole blocks, and of the video."""
        return self._cut(prompt.input_ids)

    @torch.no_grad()
    def push(self) -> None:
        """Copy the trainer's weights and forget what was computed from the old ones."""
        if self.fault == "stale_weights":
            return
        new = dict(self.trainer.named_parameters())
        for name, weight in self.model.named_parameters():
            weight.copy_(new[name])
        if self.fault != "stale_prefix":
            self.prefixes.clear()
        if self.fault != "stale_vision":
            self.features.clear()

    def close(self) -> None:
        """Nothing is held that ends with the object."""

    @torch.no_grad()
    def _answer(self, prompt: dict[str, Any], settings: dict[str, Any], generator: torch.Generator) -> Reply:
        self.key = _key(prompt)
        inputs = self._expand(prompt)
        ids, inner = inputs["input_ids"], vision_language_model(self.model)
        video: dict[str, torch.Tensor] = {
            name: inputs[name] for name in ("video_grid_thw", "second_per_grid_ts") if name in inputs
        }
        types = {name: inputs[name] for name in ("mm_token_type_ids",) if name in inputs}
        positions, deltas = inner.get_rope_index(input_ids=ids, attention_mask=torch.ones_like(ids), **types, **video)
        seconds = inputs.get("second_per_grid_ts")
        self.last[self.key] = Seen(positions[:, 0].cpu(), None if seconds is None else float(seconds[0]))
        cut = self._cut(ids[0].tolist())
        cache = copy.deepcopy(self.prefixes.get(self.key))
        if cache is None:
            cache = DynamicCache(config=self.model.config.get_text_config())
            first = {"input_ids": ids[:, :cut], "position_ids": positions[..., :cut], **video}
            first |= {name: value[:, :cut] for name, value in types.items()}
            pixels = inputs["pixel_values_videos"].to(self.model.dtype)
            self.model(**first, pixel_values_videos=pixels, past_key_values=cache, use_cache=True, logits_to_keep=1)
            self.prefixes[self.key] = copy.deepcopy(cache)
        logits = self._continue(ids[:, cut:], positions[..., cut:], cache)
        count = settings["n"]
        cache.reorder_cache(torch.zeros(count, dtype=torch.long, device=ids.device))
        tokens, logps = self._sample(logits.expand(count, -1), cache, ids.shape[1] + int(deltas), settings, generator)
        return Reply(ids[0].tolist(), tokens, logps)

    def _sample(
        self,
        logits: torch.Tensor,
        cache: DynamicCache,
        place: int,
        settings: dict[str, Any],
        generator: torch.Generator,
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Token ids and log-probabilities of each row, up to and including the first end token."""
        ends = set(settings.get("stop_token_ids") or ())
        tokens: list[list[int]] = [[] for _ in logits]
        logps: list[list[float]] = [[] for _ in logits]
        for step in range(settings["max_tokens"]):
            scores = self._scores(logits, settings)
            if settings["temperature"]:
                chosen = torch.multinomial(scores.exp().cpu(), 1, generator=generator)[:, 0]
            else:
                chosen = scores.argmax(-1).cpu()
            told = logits.float().log_softmax(-1) if self.fault == "raw_logprobs" else scores
            for row, token in enumerate(chosen.tolist()):
                if not tokens[row] or tokens[row][-1] not in ends:
                    tokens[row].append(token)
                    logps[row].append(told[row, token].item())
            if all(row[-1] in ends for row in tokens) or step + 1 == settings["max_tokens"]:
                break
            here = torch.full((3, len(tokens), 1), place + step, device=self.model.device)
            logits = self._continue(chosen[:, None].to(self.model.device), here, cache)
        return tokens, logps

    def _scores(self, logits: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor:
        """Log-probabilities to sample from, as vLLM takes its settings: allowed tokens, bias, then temperature."""
        logits = logits.float().clone()
        allowed = settings.get("allowed_token_ids")
        if allowed is not None:
            kept = torch.zeros_like(logits, dtype=torch.bool)
            kept[:, allowed] = True
            logits[~kept] = -torch.inf
        if self.fault != "banned_tokens":
            for token, bias in (settings.get("logit_bias") or {}).items():
                logits[:, int(token)] += bias
        return (logits / (settings["temperature"] or 1.0)).log_softmax(-1)

    def _continue(self, ids: torch.Tensor, positions: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """Logits after the last of ``ids``, shape ``(rows, vocabulary)``, read on from the cache."""
        return self.model(
            input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits[:, -1]

    def _cut(self, ids: Sequence[int]) -> int:
        """Whole blocks before the last token, and no less than the video, which goes through the model in one piece."""
        pad = self.processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")
        video_end = len(ids) - list(ids)[::-1].index(pad)
        return max(video_end, (len(ids) - 1) // BLOCK * BLOCK)

    def _expand(self, prompt: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The processor's inputs for what vLLM is given: one placeholder, frames and their metadata."""
        ((frames, metadata),) = prompt["multi_modal_data"]["video"]
        metadata = {name: value for name, value in metadata.items() if name != "do_sample_frames"}
        if self.fault == "placeholders":
            frames, metadata["frames_indices"] = frames[::2], metadata["frames_indices"][::2]
        if self.fault == "frame_times":
            metadata["frames_indices"] = [2 * index for index in metadata["frames_indices"]]
            metadata["total_num_frames"] *= 2
        tokenizer = self.processor.tokenizer
        inputs = self.processor(
            text=[tokenizer.decode(prompt["prompt_token_ids"], clean_up_tokenization_spaces=False)],
            videos=[torch.from_numpy(frames)],
            video_metadata=[metadata],
            return_tensors="pt",
            return_mm_token_type_ids=True,
            **prompt["mm_processor_kwargs"],
        )
        tensors = {name: value for name, value in inputs.items() if name != "second_per_grid_ts"}
        if "second_per_grid_ts" in inputs:
            tensors["second_per_grid_ts"] = torch.as_tensor(inputs["second_per_grid_ts"], dtype=torch.float32)
        return {name: value.to(self.model.device) for name, value in tensors.items()}


def _key(prompt: dict[str, Any]) -> str:
    """Name of a prompt in the caches: its ids and its video's key."""
    return f"{prompt['multi_modal_uuids']['video'][0]} {prompt['prompt_token_ids']}"
