"""Scoring: it sees the video, it equals the plain forward, and stock TRL's does neither."""

from __future__ import annotations

import pytest
import torch
from trl import GRPOTrainer

from invert_rl.encoding import EncodedPrompt
from invert_rl.grpo.scoring import BlindScoringError, assert_video_is_seen
from tests.invert_rl.grpo.scoring_batches import COMPLETION, batch_of, encode


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
