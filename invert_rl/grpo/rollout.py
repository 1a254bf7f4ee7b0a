"""Rollouts by transformers in which each different prompt, its video included, is forwarded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import DynamicCache, GenerationConfig, PreTrainedModel

from invert_rl.encoding import EncodedPrompt, batch_inputs
from invert_rl.grpo.sampling import sampling_processors
from invert_rl.models import vision_language_model

TEXT_INPUTS = ("input_ids", "attention_mask", "mm_token_type_ids")
"""Inputs with one entry for each token of a prompt."""
POSITION_INPUTS = (*TEXT_INPUTS, "video_grid_thw", "second_per_grid_ts")
"""Inputs that positions are computed from."""


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


@torch.no_grad()
def generate_completions(
    model: PreTrainedModel,
    prompts: Sequence[EncodedPrompt],
    index: Sequence[int],
    generation_config: GenerationConfig,
    pad_token_id: int,
    eos_token_ids: Sequence[int],
    numbers: torch.Tensor | None = None,
) -> list[list[int]]:
    """Generate one completion for each entry of ``index``, which says which of ``prompts`` it answers.

    The prompts, but for their last token, run through vision tower and language model once; their cache, states of
    recurrent layers included, is copied for the completions, and `generate` goes on from there with the last token.
    ``numbers``, shape ``(len(index), most new tokens)``, makes the choices where the config samples
    (`invert_rl.grpo.sampling`); without them PyTorch's global generator does. Returns token ids up to and including the
    first end token.
    """
    inputs = batch_inputs(prompts, pad_token_id)
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    rows = torch.tensor(index, device=model.device)
    cache = DynamicCache(config=model.config.get_text_config())
    inner = vision_language_model(model)
    positions, deltas = inner.get_rope_index(**{name: inputs[name] for name in POSITION_INPUTS if name in inputs})
    # `generate` wants at least one token that is not in the cache, and a recurrent state cannot be taken back by one.
    trunk = {name: value[:, :-1] if name in TEXT_INPUTS else value for name, value in inputs.items()}
    model(**trunk, position_ids=positions[:, :, :-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.reorder_cache(rows)
    inner.rope_deltas = deltas[rows]
    prompt_ids = inputs["input_ids"][rows]
    with only_what_is_asked(model):
        output = model.generate(
            input_ids=prompt_ids,
            attention_mask=inputs["attention_mask"][rows],
            past_key_values=cache,
            generation_config=generation_config,
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
