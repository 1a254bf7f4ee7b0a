"""Ground-truth injection: which completion is replaced, that the others stay, and the update it gives."""

from __future__ import annotations

import re

import pytest
import torch

from data_prep.errors import DataError
from invert_rl.grpo.inject import inject_truth
from invert_rl.models import load_model
from invert_rl.schedule import Draw
from tests.invert_rl.grpo.test_textbook import textbook_gradient, train_and_keep_rounds


def by_tokens(completion_ids, **columns):
    """A reward that no two completions share."""
    return [sum(number * token for number, token in enumerate(ids, start=1)) % 101 / 101 for ids in completion_ids]


def one_round(make_trainer, checkpoint, **settings):
    """A trainer after one step, and its round."""
    trainer = make_trainer(
        checkpoint,
        loss_type="grpo",
        per_device_train_batch_size=8,
        max_completion_length=24,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=1e9,
        max_steps=1,
        logging_steps=1,
        seed=5,
        **{"reward_funcs": [by_tokens], "tasks": ["tvg"], "prompt": "no_think", **settings},
    )
    start, rounds = train_and_keep_rounds(trainer)
    return trainer, rounds[0], start


def test_the_last_of_each_group_is_replaced_wherever_a_rank_begins():
    draws = [Draw("tvg", slot, 0, slot) for slot in (0, 0, 1, 1)]
    sampled = [([slot], [-0.5]) for slot in range(4)]
    assert [ids for ids, _ in inject_truth(sampled, draws, 0, 2, lambda d: [90 + d.row])] == [[0], [90], [2], [91]]
    assert [ids for ids, _ in inject_truth(sampled, draws, 1, 2, lambda d: [90 + d.row])] == [[90], [1], [91], [3]]
    assert inject_truth(sampled, draws, 0, 2, lambda d: None) == sampled
    ((_, scores),) = inject_truth([([1], [-0.5])], draws[:1], 1, 2, lambda d: [7, 8])
    assert len(scores) == 2 and all(score != score for score in scores)  # no engine has scored it


def test_the_update_is_the_textbooks_with_the_annotated_answer(make_trainer, tiny_qwen2_5):
    plain, without, _ = one_round(make_trainer, tiny_qwen2_5)
    trainer, round_, start = one_round(make_trainer, tiny_qwen2_5, inject_truth=True)
    tokenizer = trainer.processing_class.tokenizer
    for number, draw in enumerate(trainer._draws):
        ids = trainer._rollout[number][0]
        if number % 4 == 3:
            row = trainer.train_dataset.rows[draw.row]
            assert tokenizer.decode(ids) == f"<answer>{row.window[0]:.2f} to {row.window[1]:.2f}</answer><|im_end|>"
        else:
            assert ids == plain._rollout[number][0]
    policy = load_model(tiny_qwen2_5).eval()
    rewards = trainer._rewards[:, 0]
    expected = textbook_gradient(policy, policy, round_, rewards, 4, 1.0, torch.zeros(8, dtype=torch.bool))
    norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    assert norm > 1e-2
    for name, value in trainer.model.named_parameters():
        update = start[name] - value.detach()
        assert (update - expected[name]).abs().max() < 1e-6 * max(1.0, norm), name
    own = torch.arange(8) % 4 != 3
    (log,) = [log for log in trainer.state.log_history if "tvg/by_tokens" in log]
    assert log["tvg/by_tokens"] == pytest.approx(rewards[own].mean().item())  # the policy's answers alone
    assert rewards[own].mean() != pytest.approx(rewards.mean().item())


def test_metrics_are_of_the_policys_own_completions_and_refilling_looks_at_the_whole_group(make_trainer, tiny_qwen2_5):
    """The policy earns nothing, the annotation all: no variance of its own, none solved, yet every group teaches."""

    def only_the_truth(completions, **columns):
        return [float(bool(re.match(r"<answer>[\d.]+ to ", completion[0]["content"]))) for completion in completions]

    settings = {"reward_funcs": [only_the_truth], "online_difficulty": True, "refill_groups": 2}
    plain, *_ = one_round(make_trainer, tiny_qwen2_5, **settings)
    trainer, *_ = one_round(make_trainer, tiny_qwen2_5, inject_truth=True, **settings)
    assert trainer._rewards[:, 0].tolist() == [0.0, 0.0, 0.0, 1.0] * 2
    logs = [next(log for log in t.state.log_history if "tvg/zero_variance" in log) for t in (plain, trainer)]
    assert [log["tvg/zero_variance"] for log in logs] == [1.0, 1.0]
    assert [log["tvg/solve_rate"] for log in logs] == [0.0, 0.0]
    assert [log["data/refilled"] for log in logs] == [4.0, 0.0]  # two groups, twice; with the truth none is equal
    assert {rate for *_, rate in trainer.solve_rates.notes} == {0.0}


def test_other_tasks_are_left_alone(make_trainer, tiny_qwen2_5):
    settings = {"tasks": ["tvg", "vd"], "tvg_probability": 0.0}
    plain, *_ = one_round(make_trainer, tiny_qwen2_5, **settings)
    injected, *_ = one_round(make_trainer, tiny_qwen2_5, inject_truth=True, **settings)
    assert injected._rollout == plain._rollout


def test_what_cannot_be_injected_is_refused(make_trainer, tiny_qwen2_5):
    with pytest.raises(DataError, match="asks tvg for a thought"):
        make_trainer(tiny_qwen2_5, inject_truth=True, tasks=["tvg"])
    with pytest.raises(DataError, match="it is for grounding, and the tasks are vd"):
        make_trainer(tiny_qwen2_5, inject_truth=True, tasks=["vd"], tvg_probability=0.0)
    with pytest.raises(DataError, match="more than max_completion_length 6"):
        make_trainer(tiny_qwen2_5, inject_truth=True, tasks=["tvg"], prompt="no_think").train()
