"""Scoring: it sees the video, it equals the plain forward, and stock TRL's does neither."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from data_prep.rows import Row
from invert_rl.encoding import EncodedPrompt, PromptEncoder, video_inputs
from invert_rl.grpo.scoring import BlindScoringError, assert_video_is_seen, token_types
from invert_rl.grpo.shared_prompt import add_shared_prompts, share_prompts
from invert_rl.models import load_model, load_processor
from invert_rl.tasks import TASKS, messages, video_of
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore

COMPLETION = 9


def encode(checkpoint: str, world: Path, picks: list[tuple[str, Row]]) -> list[EncodedPrompt]:
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


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shared_prompts_equal_the_plain_forward(tiny_checkpoint, world, rows, seed):
    """Log-probabilities and gradients against G copies of each prompt, with padding and split groups."""
    different = encode(tiny_checkpoint, world, [("tvg", rows[0]), ("tvg", rows[3]), ("ar", rows[5])])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed)).tolist()[:11]
    prompts = [different[number // 4] for number in order]
    batch = batch_of(prompts, seed)
    model = load_model(tiny_checkpoint)
    add_fused_lm_head(model, temperature=0.9, outputs=("log_probs", "entropy"))
    add_shared_prompts(model)
    length = batch["input_ids"].shape[1]
    plain_inputs = {**video_inputs(prompts), "mm_token_type_ids": token_types(prompts, length, COMPLETION)}
    shared_inputs = {"shared_prompts": share_prompts(prompts, COMPLETION, 0, torch.device("cpu"))}
    results = []
    for extra in (plain_inputs, shared_inputs):
        model.zero_grad()
        output = model(**batch, **extra, fused_lm_head=True)
        scores = output.log_probs[:, -COMPLETION:]
        (scores * torch.linspace(-1, 1, scores.numel()).view_as(scores)).sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((scores.detach(), output.entropy[:, -COMPLETION:].detach(), gradients))
    (plain, plain_entropy, plain_gradients), (shared, shared_entropy, shared_gradients) = results
    assert plain.abs().sum() > 1
    assert (plain - shared).abs().max() <= 1e-5
    assert (plain_entropy - shared_entropy).abs().max() <= 1e-5
    assert plain_gradients.keys() == shared_gradients.keys()
    for name, gradient in plain_gradients.items():
        assert (gradient - shared_gradients[name]).norm() <= 1e-5 * gradient.norm() + 1e-9, name


def score(trainer, prompts, batch, blind=False):
    """Log-probabilities of the batch by the trainer, or as stock TRL computes them: without the video."""
    arguments = (trainer.model, batch["input_ids"], batch["attention_mask"], COMPLETION)
    with torch.no_grad():
        if blind:
            return GRPOTrainer._get_per_token_logps_and_entropies(trainer, *arguments)[0]
        with trainer._scoring(prompts):
            return trainer._get_per_token_logps_and_entropies(*arguments)[0]


@pytest.mark.parametrize("share", [True, False])
def test_log_probabilities_depend_on_the_video(make_trainer, tiny_checkpoint, world, rows, share):
    trainer = make_trainer(tiny_checkpoint, share_prompts=share)
    (prompt,) = encode(tiny_checkpoint, world, [("tvg", rows[0])])
    other = EncodedPrompt(
        prompt.input_ids,
        prompt.mm_token_type_ids,
        -prompt.pixel_values_videos,
        prompt.video_grid_thw,
        prompt.second_per_grid_ts,
    )
    batch = batch_of([prompt, prompt], seed=0)
    seen = score(trainer, [prompt, prompt], batch)
    changed = score(trainer, [other, other], batch)
    assert (seen - changed).abs().max() > 1e-4
    again = score(trainer, [prompt, prompt], batch)
    assert torch.equal(seen, again)
    blind = score(trainer, [prompt, prompt], batch, blind=True)  # no video can reach this one
    assert (seen - blind).abs().max() > 1e-4


def test_stock_scoring_is_caught_as_blind(make_trainer, tiny_checkpoint, world, rows):
    """The negative control: TRL's own scoring forward never runs the vision tower on a video."""
    trainer = make_trainer(tiny_checkpoint)
    (prompt,) = encode(tiny_checkpoint, world, [("tvg", rows[0])])
    batch = batch_of([prompt, prompt], seed=0)
    with pytest.raises(BlindScoringError, match="scoring saw 0 of 1"), assert_video_is_seen(trainer.model, [prompt]):
        score(trainer, [prompt, prompt], batch, blind=True)
    with assert_video_is_seen(trainer.model, [prompt]):
        score(trainer, [prompt, prompt], batch)


def test_first_step_checks_that_scoring_saw_the_video(make_trainer, tiny_qwen2_5, monkeypatch):
    trainer = make_trainer(tiny_qwen2_5, share_prompts=False)
    monkeypatch.setattr(trainer, "_prompt_inputs", lambda prompts, input_ids, length: {})
    with pytest.raises(BlindScoringError):
        trainer.train()


def test_positions_are_the_trained_ones_in_scoring(make_trainer, tiny_qwen2_5, world, rows):
    """Opting out of the trained rule changes the log-probabilities of a long video."""
    (prompt,) = encode(tiny_qwen2_5, world, [("tvg", rows[0])])
    batch = batch_of([prompt, prompt], seed=0)
    trained = score(make_trainer(tiny_qwen2_5), [prompt, prompt], batch)
    stock = make_trainer(tiny_qwen2_5)
    inner = next(m for m in stock.model.modules() if type(m).__name__ == "Qwen2_5_VLModel")
    del inner.get_rope_index  # the method of the class shows again
    assert (trained - score(stock, [prompt, prompt], batch)).abs().max() > 1e-5
