"""Shared prompts of odd shapes against each row forwarded alone: no batch, no padding, nothing that is shared."""

from __future__ import annotations

import pytest
import torch

from invert_rl.encoding import EncodedPrompt, video_inputs
from invert_rl.grpo.shared_prompt import SharedPrompts
from invert_rl.models import family_of
from tests.invert_rl.grpo.double import in_double  # noqa: F401
from tests.invert_rl.grpo.test_shared_families import differences, scoring_model

LENGTH = 7
"""Tokens of a completion, padding included."""
PADDING = 5
"""What stands before the longest prompt."""


def prompt_of(model, text: list[int], grids: list[tuple[int, int, int]], seed: int) -> EncodedPrompt:
    """A prompt whose ``text`` counts the tokens before, between and after its videos of those grids."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    steps_apart = family_of(model).name != "qwen2_5_vl"  # times between a video's steps

    def words(count: int) -> list[int]:
        return torch.randint(20, 500, (count,), generator=generator).tolist()

    ids, types = words(text[0]), [0] * text[0]
    for grid, after in zip(grids, text[1:], strict=True):
        step = grid[1] * grid[2] // 4
        for number in range(grid[0]):
            between = words(2) if steps_apart and number else []
            ids += [*between, *[config.video_token_id] * step]
            types += [0] * len(between) + [2] * step
        ids, types = ids + words(after), types + [0] * after
    vision = config.vision_config
    size = 3 * vision.temporal_patch_size * vision.patch_size**2
    grid_thw = torch.tensor(grids, dtype=torch.long).view(-1, 3)
    return EncodedPrompt(
        input_ids=ids,
        mm_token_type_ids=types,
        pixel_values_videos=torch.randn(int(grid_thw.prod(1).sum()), size, generator=generator, dtype=torch.double),
        video_grid_thw=grid_thw,
        second_per_grid_ts=None if steps_apart else torch.linspace(0.5, 1.5, len(grids)),
    )


def completions_of(lengths: list[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    return [torch.randint(20, 500, (length,), generator=generator) for length in lengths]


def scores_alone(model, prompt: EncodedPrompt, completion: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of one completion, from one row without any padding."""
    if not len(completion):
        return torch.zeros(0, dtype=torch.double)
    ids = torch.cat([torch.tensor(prompt.input_ids), completion])[None]
    types = torch.tensor([prompt.mm_token_type_ids + [0] * len(completion)])
    output = model(
        input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, **video_inputs([prompt])
    )
    logits = output.logits[0, len(prompt.input_ids) - 1 : -1]
    return torch.log_softmax(logits, dim=-1).gather(-1, completion[:, None])[:, 0]


def scores_shared(model, prompts: list[EncodedPrompt], completions: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same of all rows at once, left-padded, each prompt forwarded once."""
    longest = PADDING + max(len(prompt.input_ids) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest + LENGTH, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        first = longest - len(prompt.input_ids)
        whole = torch.cat([torch.tensor(prompt.input_ids), completion])
        ids[row, first : first + len(whole)] = whole
        mask[row, first : first + len(whole)] = 1
    logits = model(input_ids=ids, attention_mask=mask, shared_prompts=SharedPrompts(prompts, LENGTH)).logits
    return [
        torch.log_softmax(logits[row, : len(completion)], dim=-1).gather(-1, completion[:, None])[:, 0]
        for row, completion in enumerate(completions)
    ]


def gradients(model, scores: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    flat = torch.cat(scores)
    (flat * torch.linspace(-1, 1, len(flat), dtype=flat.dtype)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lora", [False, True])
def test_odd_shapes_in_one_micro_batch(family_checkpoint, in_double, lora):  # noqa: F811
    """Two videos in a prompt, none, prompts shorter than the convolution, completions of one token and of none."""
    model = scoring_model(family_checkpoint, torch.double, lora=lora, checkpointing=lora)
    two = prompt_of(model, [5, 3, 9], [(3, 4, 8), (1, 8, 4)], seed=0)
    none = prompt_of(model, [3], [], seed=1)
    shortest = prompt_of(model, [2], [], seed=2)
    long = prompt_of(model, [1, 70], [(6, 4, 4)], seed=3)
    prompts = [two, none, two, shortest, long, none, shortest, long, two]
    completions = completions_of([7, 1, 1, 6, 5, 7, 1, 0, 3])
    alone = [scores_alone(model, prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
    expected = gradients(model, alone)
    shared = scores_shared(model, prompts, completions)
    for row, (ours, reference) in enumerate(zip(shared, alone, strict=True)):
        assert len(ours) == len(completions[row])
        assert (ours - reference).abs().sum() <= 1e-10, row
    worst = differences(expected, gradients(model, shared))
    assert max(worst.values()) <= 1e-8, max(worst.items(), key=lambda item: item[1])
    assert sum(scores.abs().sum() for scores in alone) > 10


def test_without_any_video(family_checkpoint, in_double):  # noqa: F811
    model = scoring_model(family_checkpoint, torch.double)
    prompts = [prompt_of(model, [length], [], seed=length) for length in (2, 30)]
    rows, completions = [prompts[0], prompts[1], prompts[1]], completions_of([4, 7, 1])
    alone = [scores_alone(model, prompt, completion) for prompt, completion in zip(rows, completions, strict=True)]
    for ours, reference in zip(scores_shared(model, rows, completions), alone, strict=True):
        assert (ours - reference).abs().max() <= 1e-10


def test_a_prompt_of_one_token_is_refused(tiny_qwen2_5):
    prompt = prompt_of(scoring_model(tiny_qwen2_5), [1], [], seed=0)
    with pytest.raises(ValueError, match="a prompt of one token"):
        SharedPrompts([prompt], LENGTH)
