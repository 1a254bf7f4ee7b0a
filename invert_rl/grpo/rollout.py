"""Rollouts by transformers in which each different prompt, its video included, is forwarded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import GenerationConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_managed_module

from invert_rl.encoding import EncodedPrompt, batch_inputs, video_inputs
from invert_rl.grpo.prompt_caches import joined, roomy_cache
from invert_rl.grpo.sampling import greedily, sampling_processors
from invert_rl.models import vision_language_model

TEXT_INPUTS = ("input_ids", "attention_mask", "mm_token_type_ids")
"""Inputs with one entry for each token of a prompt."""
POSITION_INPUTS = (*TEXT_INPUTS, "video_grid_thw", "second_per_grid_ts")
"""Inputs that positions are computed from."""
LARGEST_MASK = 2**24
"""Most elements, N² each, of a mask for prompts of unequal length; beyond, one length is forwarded at a time."""


@contextmanager
def only_what_is_asked(model: torch.nn.Module) -> Iterator[None]:
    """Inside, ``generate`` heeds its config alone, and nothing of the checkpoint's ``generation_config.json``.

    transformers fills what a config leaves open from the checkpoint: Qwen2.5-VL ships ``repetition_penalty`` 1.05,
    others ``no_repeat_ngram_size``, ``min_new_tokens`` or ``bad_words_ids``. vLLM would sample without them.
    """
    kept = [
        (module, module.__dict__["generation_config"])
        for module in model.modules()
        if isinstance(module.__dict__.get("generation_config"), GenerationConfig)
    ]
    for module, _ in kept:
        module.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for module, config in kept:
            module.generation_config = config


def forwarded_together(model: torch.nn.Module, lengths: Sequence[int]) -> list[list[int]]:
    """The prompts, by number, that are forwarded in one batch: all of them, or those of one length.

    Behind padding attention needs a mask, without it none. Ranks whose weights are sharded must all make the same
    number of forwards, so these take all prompts at once.
    """
    sharded = isinstance(model, FSDPModule) or is_fsdp_managed_module(model) or is_deepspeed_zero3_enabled()
    if sharded or len(set(lengths)) == 1 or len(lengths) * max(lengths) ** 2 <= LARGEST_MASK:
        return [list(range(len(lengths)))]
    return [[number for number, one in enumerate(lengths) if one == length] for length in sorted(set(lengths))]


@torch.no_grad()
def generate_completions(
    model: PreTrainedModel,
    prompts: Sequence[EncodedPrompt],
    index: Sequence[int],
    generation_config: GenerationConfig,
    pad_token_id: int,
    eos_token_ids: Sequence[int],
    numbers: torch.Tensor | None = None,
    videos_of: Callable[[Sequence[EncodedPrompt]], AbstractContextManager[None]] = lambda prompts: nullcontext(),
) -> list[list[int]]:
    """Generate one completion for each entry of ``index``, which says which of ``prompts`` it answers.

    The prompts, but for their last token, run through vision tower and language model once; their cache, states of
    recurrent layers included, is copied for the completions, and `generate` goes on from there with the last token.
    ``numbers``, shape ``(len(index), most new tokens)``, makes the choices where the config samples
    (`invert_rl.grpo.sampling`); without them PyTorch's global generator does. ``videos_of`` is entered around the
    forward of the prompts that it is given. Returns token ids up to and including the first end token.
    """
    inputs = batch_inputs(prompts, pad_token_id)
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    rows = torch.tensor(index, device=model.device)
    inner = vision_language_model(model)
    positions, deltas = inner.get_rope_index(**{name: inputs[name] for name in POSITION_INPUTS if name in inputs})
    # `generate` wants at least one token that is not in the cache, and a recurrent state cannot be taken back by one.
    caches = []
    together = forwarded_together(model, [len(prompt.input_ids) for prompt in prompts])
    for batch in together:
        chosen = [prompts[number] for number in batch]
        trunk = slice(-max(len(prompt.input_ids) for prompt in chosen), -1)
        part = {name: inputs[name][batch, trunk] for name in TEXT_INPUTS}
        part |= {name: tensor.to(model.device) for name, tensor in video_inputs(chosen).items()}
        cache = roomy_cache(model.config.get_text_config())
        with videos_of(chosen):
            model(
                **part,
                position_ids=positions[:, batch, trunk],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        caches.append(cache)
    cache = joined(caches, [number for batch in together for number in batch])
    cache.reorder_cache(rows)
    inner.rope_deltas = deltas[rows]
    prompt_ids = inputs["input_ids"][rows]
    with only_what_is_asked(model):
        output = model.generate(
            input_ids=prompt_ids,
            attention_mask=inputs["attention_mask"][rows],
            past_key_values=cache,
            generation_config=generation_config if numbers is None else greedily(generation_config),
            logits_processor=None if numbers is None else sampling_processors(generation_config, numbers),
            # Ranks whose weights are sharded must go on together until the last has finished. transformers sees to it
            # for ZeRO-3 and FSDP1, but does not recognise a model that accelerate has sharded by FSDP2.
            synced_gpus=True if isinstance(model, FSDPModule) and torch.distributed.get_world_size() > 1 else None,
        )
    completions = []
    ends = set(eos_token_ids)
    for ids in output[:, prompt_ids.shape[1] :].tolist():
        end = next((place for place, token in enumerate(ids) if token in ends), len(ids) - 1)
        completions.append(ids[: end + 1])
    return completions
