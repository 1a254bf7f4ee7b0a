"""Batches for tests of scoring: real prompts with random completions, and what a model makes of them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from data_prep.rows import Row
from invert_rl.encoding import EncodedPrompt, PromptEncoder, video_inputs
from invert_rl.grpo.scoring import token_types
from invert_rl.grpo.shared_prompt import SharedPrompts
from invert_rl.models import load_processor
from invert_rl.tasks import TASKS, messages, video_of
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore

COMPLETION = 9
"""Tokens of a completion, padding included."""


def encode(checkpoint: str, world: Path, picks: list[tuple[str, Row]]) -> list[EncodedPrompt]:
    """The prompts of some tasks and rows of a toy world."""
    processor = load_processor(checkpoint)
    settings = FrameSettings(min_pixels=56 * 56, image_patch_size=processor.video_processor.patch_size)
    store = FrameStore(world / "videos", settings)
    encoder = PromptEncoder(processor)
    chats = [messages(TASKS[name], row) for name, row in picks]
    return [encoder(chat, store.clip(video_of(chat))) for chat in chats]


def batch_of(prompts: list[EncodedPrompt], seed: int) -> dict[str, torch.Tensor]:
    """Left-padded prompts of unequal length, then random completions of unequal length."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(len(prompt.input_ids) for prompt in prompts) + 2
    ids = torch.tensor([[0] * (longest - len(p.input_ids)) + p.input_ids for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p.input_ids)) + [1] * len(p.input_ids) for p in prompts])
    completions = torch.randint(20, 500, (len(prompts), COMPLETION), generator=generator)
    kept = torch.ones_like(completions)
    for row in range(len(prompts)):
        kept[row, COMPLETION - row % 4 :] = 0
    input_ids = torch.cat([ids, completions.masked_fill(kept == 0, 0)], dim=1)
    attention_mask = torch.cat([mask, kept], dim=1)
    labels = input_ids.masked_fill(attention_mask == 0, -100)
    labels[:, :longest] = -100
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def mixed_groups(different: list[EncodedPrompt], seed: int) -> list[EncodedPrompt]:
    """Eleven rows in random order, groups of four of which one has lost a row."""
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed)).tolist()[:11]
    return [different[number // 4] for number in order]


def plain_inputs(prompts: list[EncodedPrompt], batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the plain forward needs besides the batch: the video of every row."""
    length = batch["input_ids"].shape[1]
    return {**batch, **video_inputs(prompts), "mm_token_type_ids": token_types(prompts, length, COMPLETION)}


def shared_inputs(prompts: list[EncodedPrompt], batch: dict[str, torch.Tensor]) -> dict[str, object]:
    """What the shared forward needs besides the batch."""
    return {**batch, "shared_prompts": SharedPrompts(prompts, COMPLETION)}


def score_and_gradients(
    model: nn.Module, inputs: dict[str, object]
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Log-probabilities, entropies and the gradients of a weighted sum of the former."""
    model.zero_grad()
    output = model(**inputs, fused_lm_head=True)
    scores = output.log_probs[:, -COMPLETION:]
    (scores * torch.linspace(-1, 1, scores.numel()).view_as(scores)).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return scores.detach(), output.entropy[:, -COMPLETION:].detach(), gradients
