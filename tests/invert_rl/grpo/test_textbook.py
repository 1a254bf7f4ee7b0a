"""The update of one step against GRPO written from the paper (eq. 3 and 4), row by row, with plain forwards.

Policy gradient and KL term, on packed and copied prompts, with groups refilled or not. Nothing here uses the trainer's
scoring: each completion is forwarded alone, behind its own prompt and video, and its gradient is autograd's.
"""

from __future__ import annotations

import pytest
import torch

from invert_rl.encoding import video_inputs
from invert_rl.models import load_model

BETA = 0.3


def some_equal(teaching: set[str]):
    """Rewards that differ within the groups of some rows only, and are None now and then."""

    def reward(completion_ids, id, **columns):
        return [
            None if row in teaching and len(ids) == 1 else sum(ids) % 7 / 7 if row in teaching else 0.25
            for ids, row in zip(completion_ids, id, strict=True)
        ]

    return reward


def token_log_probs(model, prompt, ids: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities of a completion behind its prompt: one plain forward over one unpadded row."""
    inputs = torch.tensor([[*prompt.input_ids, *ids.tolist()]])
    types = torch.tensor([[*prompt.mm_token_type_ids, *([0] * len(ids))]])
    logits = model(
        input_ids=inputs, attention_mask=torch.ones_like(inputs), mm_token_type_ids=types, **video_inputs([prompt])
    ).logits[0]
    scores = torch.log_softmax(logits[len(prompt.input_ids) - 1 : -1] / temperature, dim=-1)
    return scores.gather(1, ids[:, None])[:, 0]


def textbook_gradient(policy, reference, round_, rewards, group: int, temperature: float, kl_of: torch.Tensor):
    """Gradient of the GRPO loss over a round, by name; ``kl_of`` says which rows have the KL term."""
    grouped = rewards.view(-1, group)
    mean = grouped.nanmean(dim=1, keepdim=True)
    count = (~grouped.isnan()).sum(dim=1, keepdim=True)
    std = ((grouped - mean) ** 2).nansum(dim=1, keepdim=True).div((count - 1).clamp(min=1)).sqrt()
    advantages = ((grouped - mean) / (std + 1e-4)).nan_to_num(0.0).flatten()
    policy.zero_grad()
    rows = len(round_["encoded_prompts"])
    for row, prompt in enumerate(round_["encoded_prompts"]):
        ids = round_["completion_ids"][row][: round_["lengths"][row]]
        log_probs = token_log_probs(policy, prompt, ids, temperature)
        ratio = (log_probs - log_probs.detach()).exp()
        objective = ratio * advantages[row]
        if kl_of[row]:
            with torch.no_grad():
                of_reference = token_log_probs(reference, prompt, ids, temperature)
            difference = of_reference - log_probs
            objective = objective - BETA * ratio * (difference.exp() - difference - 1)  # unbiased: times the ratio
        (-objective.mean() / rows).backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def train_and_keep_rounds(trainer):
    """Train; the weights before it, and each round as the trainer scored it with the lengths of its completions."""
    generate, rounds = trainer._generate_and_score_completions, []

    def keep(inputs):
        output = generate(inputs)
        rounds.append({**output, "lengths": [len(ids) for ids, _ in trainer._rollout]})
        return output

    trainer._generate_and_score_completions = keep
    start = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    return start, rounds


@pytest.mark.parametrize("refill", [0, 2])
@pytest.mark.parametrize("share", [True, False], ids=["packed", "copied"])
def test_one_update_is_that_of_the_textbook(make_trainer, tiny_checkpoint, rows, share, refill):
    trainer = make_trainer(
        tiny_checkpoint,
        share_prompts=share,
        refill_groups=refill,
        reward_funcs=[some_equal({row.id for row in rows[:4]})],
        tasks=["tvg"],
        loss_type="grpo",
        beta=BETA,
        per_device_train_batch_size=12,
        max_completion_length=7,
        temperature=0.9,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=1e9,
        max_steps=1,
        seed=5,
    )
    policy, reference = load_model(tiny_checkpoint).eval(), load_model(tiny_checkpoint).eval()
    with torch.no_grad():
        for model in (trainer.ref_model, reference):
            for value in model.parameters():
                value.mul_(1.05)
    start, rounds = train_and_keep_rounds(trainer)
    (round_,) = rounds
    rewards = trainer._rewards[:, 0]
    spread = rewards.view(-1, 4).nan_to_num(-1).std(dim=1) > 0
    kl_of = spread.repeat_interleave(4) if refill else torch.ones(12, dtype=torch.bool)
    logged = [log["data/refilled"] for log in trainer.state.log_history if "data/refilled" in log]
    assert bool(logged and logged[0] > 0) == bool(refill)
    expected = textbook_gradient(policy, reference, round_, rewards, 4, 0.9, kl_of)
    norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    assert norm > 1e-2
    for name, value in trainer.model.named_parameters():
        update = start[name] - value.detach()
        assert (update - expected[name]).abs().max() < 1e-6 * max(1.0, norm), name
