"""Rollouts: the repeated cache gives what `generate` gives, and banned tokens never come."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from data_prep.rows import Row
from invert_rl.encoding import batch_inputs
from invert_rl.grpo import prompt_caches, rollout
from invert_rl.grpo.rollout import generate_completions
from invert_rl.models import NEVER_SAMPLED, load_model, load_processor, never_sampled_ids
from tests.invert_rl.grpo.test_scoring import encode

PAD, END = 0, 2


def config(**overrides) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=12, pad_token_id=PAD, eos_token_id=[END], disable_compile=True, **overrides)


def test_greedy_completions_equal_generate_on_each_prompt(family_checkpoint, world: Path, rows: list[Row]):
    """Keys, values and recurrent states of prompts of unequal length, copied to their completions."""
    prompts = encode(family_checkpoint, world, [("tvg", rows[0]), ("vc", rows[4]), ("ar", rows[2])])
    model = load_model(family_checkpoint)
    for parameter in model.parameters():  # random weights say the same whatever they see; larger ones do not
        parameter.data *= 3.0
    index = [0, 2, 1, 0]
    ours = generate_completions(model, prompts, index, config(do_sample=False), PAD, [END])
    different = {tuple(completion) for completion in ours}
    assert len(different) > 1
    for number, completion in zip(index, ours, strict=True):
        inputs = batch_inputs([prompts[number]], PAD)
        output = model.generate(**inputs, generation_config=config(do_sample=False))
        assert output[0, inputs["input_ids"].shape[1] :].tolist() == completion


def test_prompts_of_unequal_length_need_no_mask(family_checkpoint, world: Path, rows: list[Row], monkeypatch):
    """One length at a time gives the completions of one padded batch; no attention is given N² elements of mask."""
    prompts = encode(family_checkpoint, world, [("tvg", rows[0]), ("vc", rows[4]), ("tvg", rows[0]), ("ar", rows[2])])
    lengths = [len(prompt.input_ids) for prompt in prompts]
    assert len(set(lengths)) == 3
    model = load_model(family_checkpoint)
    for parameter in model.parameters():
        parameter.data *= 3.0
    index = [1, 0, 3, 2, 0]
    masks: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, value, attn_mask=None, **options):
        masks.append(0 if attn_mask is None else attn_mask.shape[-2] * attn_mask.shape[-1])
        return attend(query, key, value, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    largest, told = {}, []

    def completions(limit: int):
        masks.clear()
        monkeypatch.setattr(rollout, "LARGEST_MASK", limit)
        ids = generate_completions(
            model,
            prompts,
            index,
            config(do_sample=False),
            PAD,
            [END],
            videos_of=lambda some: told.append(some) or nullcontext(),
        )
        largest[limit] = max(masks)
        return ids

    padded, apart = completions(2**24), completions(0)
    assert padded == apart and len({tuple(ids) for ids in apart}) > 1
    assert [len(some) for some in told] == [4, *(lengths.count(length) for length in sorted(set(lengths)))]
    shortest = min(lengths) ** 2
    assert largest[2**24] > shortest > largest[0]


@pytest.mark.parametrize("room", [1, 5, 64])
def test_tokens_are_appended_while_there_is_room(tiny_qwen2_5, world: Path, rows: list[Row], monkeypatch, room):
    """The answers are those of `generate`; keys and values are copied when the room is used up, not for each token."""
    prompts = encode(tiny_qwen2_5, world, [("tvg", rows[0]), ("vc", rows[4])])
    model = load_model(tiny_qwen2_5)
    for parameter in model.parameters():
        parameter.data *= 3.0
    copies: list[int] = []
    with_room = prompt_caches._with_room

    def counted(states: torch.Tensor, needed: int) -> torch.Tensor:
        copies.append(needed)
        return with_room(states, needed)

    monkeypatch.setattr(prompt_caches, "ROOM", room)
    monkeypatch.setattr(prompt_caches, "_with_room", counted)
    ours = generate_completions(model, prompts, [0, 1, 0], config(do_sample=False), PAD, [])
    for number, completion in zip([0, 1, 0], ours, strict=True):
        given = GenerationConfig(max_new_tokens=12, pad_token_id=PAD, do_sample=False, disable_compile=True)
        output = model.generate(**batch_inputs([prompts[number]], PAD), generation_config=given)
        assert output[0, -12:].tolist() == completion
    layers = model.config.get_text_config().num_hidden_layers
    assert len(copies) == 2 * layers * -(-12 // (room + 1))  # 12 tokens go in, the prompt's last one first


def test_sampling_by_numbers_draws_nothing_else(tiny_qwen2_5, world: Path, rows: list[Row]):
    """The numbers make every choice: neither do the process's own random numbers, nor are they used up."""
    prompts = encode(tiny_qwen2_5, world, [("tvg", rows[0])])
    model, index = load_model(tiny_qwen2_5), [0] * 6
    numbers = torch.rand(6, 12, generator=torch.Generator().manual_seed(1))
    settings = config(do_sample=True, temperature=0.7, top_k=40)
    given = (model, prompts, index, settings, PAD, [END], numbers)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = generate_completions(*given)
    assert torch.equal(torch.get_rng_state(), before) and len(set(map(tuple, first))) > 1
    torch.manual_seed(5)
    assert generate_completions(*given) == first
    assert settings.do_sample and settings.temperature == 0.7 and settings.top_k == 40  # the caller's are as they were


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_banned_tokens_are_never_sampled(make_trainer, tiny_checkpoint, seed):
    """A model that wants to say nothing but video tokens is kept from it through a whole training step."""
    trainer = make_trainer(tiny_checkpoint, seed=seed, max_steps=1)
    banned = never_sampled_ids(trainer.processing_class)
    assert len(banned) == len(NEVER_SAMPLED)
    sampled: list[int] = []
    wants = torch.zeros(trainer.model.config.get_text_config().vocab_size)
    wants[banned] = 50.0
    trainer.model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + wants)
    trainer.reward_funcs[0] = lambda completion_ids, **columns: [sampled.extend(ids) or 0.0 for ids in completion_ids]
    trainer.train()
    assert len(sampled) > 4
    assert not set(sampled) & set(banned)


def test_without_the_ban_that_model_says_video_tokens(tiny_qwen2_5, world: Path, rows: list[Row]):
    """The negative control of the test above."""
    (prompt,) = encode(tiny_qwen2_5, world, [("ar", rows[0])])
    model = load_model(tiny_qwen2_5)
    banned = never_sampled_ids(load_processor(tiny_qwen2_5))
    wants = torch.zeros(model.config.get_text_config().vocab_size)
    wants[banned] = 50.0
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + wants)
    (free,) = generate_completions(model, [prompt], [0], config(do_sample=False), PAD, [END])
    (kept,) = generate_completions(model, [prompt], [0], config(do_sample=False, suppress_tokens=banned), PAD, [END])
    assert set(free) <= set(banned)
    assert not set(kept) & set(banned)
