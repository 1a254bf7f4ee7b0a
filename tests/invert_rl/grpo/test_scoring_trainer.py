"""The trainer's update: groups kept together, the frozen tower run once, the self-check, gradient checkpointing."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig

from invert_rl.grpo import packed_attention, packed_recurrence, scoring_trainer, shared_prompt
from invert_rl.grpo.groups import order_by_group
from invert_rl.grpo.packed_layout import SharingNotSupportedError
from invert_rl.grpo.self_check import by_branch, floor
from invert_rl.models import vision_language_model
from invert_rl.models.tiny import save_tiny_checkpoint
from tests.invert_rl.conftest import SMALL_MODEL

WARNINGS = "invert_rl.grpo.scoring_trainer"


def weights(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def assert_close(weights, others, tolerance=1e-6):
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert (weight - others[name]).abs().max() <= tolerance, name


def values(trainer, name):
    return [log[name] for log in trainer.state.log_history if name in log]


# -- groups -----------------------------------------------------------------------------------------------------------


def test_order_by_group():
    """Groups follow by their first samples, samples of one keep their order, and nothing is lost."""
    a, b, c = SimpleNamespace(), SimpleNamespace(), SimpleNamespace()
    batches = [
        {"prompts": [b, a], "ids": torch.tensor([[0, 0], [1, 1]]), "names": ["b0", "a1"], "total": torch.tensor(9)},
        {"prompts": [c, b], "ids": torch.tensor([[2, 2], [3, 3]]), "names": ["c2", "b3"], "total": torch.tensor(9)},
        {"prompts": [a, c], "ids": torch.tensor([[4, 4], [5, 5]]), "names": ["a4", "c5"], "total": torch.tensor(9)},
    ]
    ordered = order_by_group([{**batch, "none": None} for batch in batches], "prompts")
    assert [batch["names"] for batch in ordered] == [["b0", "b3"], ["a1", "a4"], ["c2", "c5"]]
    assert [batch["prompts"] for batch in ordered] == [[b, b], [a, a], [c, c]]
    assert [batch["ids"][:, 0].tolist() for batch in ordered] == [[0, 3], [1, 4], [2, 5]]
    assert all(batch["total"] == 9 and batch["none"] is None for batch in ordered)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_keeping_groups_changes_no_step_that_takes_a_whole_round(make_trainer, tiny_qwen2_5, loss_type):
    """Two prompts, two micro-batches, one step: the same update, with half as many prompts a micro-batch."""
    settings = {"gradient_accumulation_steps": 2, "max_steps": 1, "beta": 0.04, "loss_type": loss_type}
    settings |= {"optim": "sgd", "max_grad_norm": 0.0}  # an optimizer that does not magnify rounding
    kept = make_trainer(tiny_qwen2_5, **settings)
    start = weights(kept)
    kept.train()
    shuffled = make_trainer(tiny_qwen2_5, keep_groups=False, **settings)
    shuffled.train()
    assert values(kept, "score/unique_prompts") == [0.25]
    assert values(shuffled, "score/unique_prompts") == [0.5]
    assert max((weight - start[name]).abs().max() for name, weight in weights(kept).items()) > 1e-4
    assert_close(weights(kept), weights(shuffled))


# -- the frozen tower -------------------------------------------------------------------------------------------------


def count_tower_calls(trainer):
    calls = []
    for model in (trainer.model, trainer.ref_model):
        if model is not None:
            visual = vision_language_model(model).visual
            visual.patch_embed.register_forward_pre_hook(lambda _module, args: calls.append(len(args[0])))
    return calls


@pytest.mark.parametrize("lora", [False, True])
def test_a_frozen_tower_sees_each_video_once(make_trainer, tiny_checkpoint, monkeypatch, lora):
    """Rollout, old, reference and both updates of a round: one run of the tower, and the weights of four."""
    settings = {"num_iterations": 2, "beta": 0.04, "max_steps": 2, "freeze_vision": not lora}
    if lora:
        settings["peft_config"] = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    once = make_trainer(tiny_checkpoint, **settings)
    calls = count_tower_calls(once)
    once.train()
    assert len(calls) == 1
    assert all(seconds >= 0 for seconds in values(once, "time/vision"))
    monkeypatch.setattr(scoring_trainer, "tower_is_frozen", lambda model: False)
    often = make_trainer(tiny_checkpoint, **settings)
    calls = count_tower_calls(often)
    often.train()
    assert len(calls) >= 5
    assert_close(weights(once), weights(often), tolerance=0)
    frozen = [name for name in weights(once) if ".visual." in name]
    start = weights(make_trainer(tiny_checkpoint, **settings))
    assert frozen and all(torch.equal(weights(once)[name], start[name]) for name in frozen)


def test_videos_are_kept_from_round_to_round_within_the_budget(make_trainer, tiny_qwen2_5, rows):
    settings = {"rows": rows[:1], "tasks": ["tvg"], "max_steps": 3, "freeze_vision": True}
    forgetful = make_trainer(tiny_qwen2_5, **settings)
    forgetful.train()
    keeper = make_trainer(tiny_qwen2_5, vision_memory_mb=50, **settings)
    keeper.train()
    assert (forgetful.vision.calls, keeper.vision.calls) == (3, 1)
    assert_close(weights(keeper), weights(forgetful), tolerance=0)


def test_videos_are_found_on_disk_by_the_next_run(make_trainer, tiny_qwen3, rows, tmp_path):
    """Rounds of several videos: the second run computes its first one alone, and ends with the same weights."""
    settings = {"rows": rows, "tasks": ["tvg"], "max_steps": 4, "freeze_vision": True}
    store = str(tmp_path / "features")
    runs = []
    for _ in range(2):  # one after the other, as making one sets the seed of the shuffle
        runs.append(make_trainer(tiny_qwen3, vision_store=store, **settings))
        runs[-1].train()
    assert runs[1].vision.calls == 1 < runs[0].vision.calls
    assert_close(weights(runs[0]), weights(runs[1]), tolerance=0)


@pytest.mark.parametrize("adapters", [None, ["q_proj", "qkv"]])
def test_a_trained_tower_is_never_kept(make_trainer, tiny_qwen2_5, caplog, adapters):
    """Full fine-tuning, and adapters on the tower: every pass computes anew, and the tower learns."""
    peft_config = LoraConfig(r=4, target_modules=adapters) if adapters else None
    settings = {"num_iterations": 2, "max_steps": 4, "vision_memory_mb": 50}
    trainer = make_trainer(tiny_qwen2_5, peft_config=peft_config, **settings)
    assert "vision_memory_mb and vision_store have no effect" in caplog.text
    start = weights(trainer)
    calls = count_tower_calls(trainer)
    trainer.train()
    assert len(calls) >= 4
    assert not trainer.vision.nbytes
    assert any(".visual." in name and not torch.equal(start[name], now) for name, now in weights(trainer).items())


# -- the self-check ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("long", [False, True], ids=["", "long rows"])
def test_sharing_is_checked_once_and_passes(make_trainer, family_checkpoint, monkeypatch, caplog, long):
    if long:
        monkeypatch.setattr(scoring_trainer, "LONG", 0)
    trainer = make_trainer(family_checkpoint)
    trainer.train()
    (difference,) = values(trainer, "score/self_check")
    assert 0 <= difference < 1e-5
    assert trainer.shares_prompts
    assert not [record for record in caplog.records if record.name == WARNINGS]


def test_long_rows_are_scored_without_a_mask(make_trainer, tiny_qwen2_5, monkeypatch):
    """A mask of N x N elements is what does not fit at 100k tokens."""
    monkeypatch.setattr(scoring_trainer, "LONG", 0)
    trainer = make_trainer(tiny_qwen2_5)
    masks = []
    check = trainer._check_sharing

    def watched(*args):
        handles = [
            module.register_forward_pre_hook(
                lambda _module, _args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
            )
            for name, module in trainer.model.named_modules()
            if name.endswith("self_attn")
        ]
        check(*args)
        for handle in handles:
            handle.remove()

    monkeypatch.setattr(trainer, "_check_sharing", watched)
    trainer.train()
    assert masks and all(mask is None for mask in masks)
    assert trainer.shares_prompts


def test_a_model_on_which_sharing_errs_is_scored_by_copies(make_trainer, tiny_qwen2_5, monkeypatch, caplog):
    pack = shared_prompt._pack

    def wrong_positions(*args, **kwargs):
        inputs, *rest = pack(*args, **kwargs)
        return {**inputs, "position_ids": inputs["position_ids"] * 3}, *rest

    monkeypatch.setattr(shared_prompt, "_pack", wrong_positions)
    trainer = make_trainer(tiny_qwen2_5)
    trainer.train()
    (difference,) = values(trainer, "score/self_check")
    (warning,) = [record for record in caplog.records if record.name == WARNINGS]
    assert warning.levelno == logging.WARNING
    assert f"{difference:.3g}" in warning.getMessage() and difference > 1e-4
    assert not trainer.shares_prompts
    monkeypatch.undo()
    plain = make_trainer(tiny_qwen2_5, share_prompts=False)
    plain.train()
    assert_close(weights(trainer), weights(plain), tolerance=0)


def leak(amount):
    """Attention in which each branch also sees a little of the one before it."""
    attend = packed_attention.packed_attention

    def leaking(query, key, value, layout, **kwargs):
        output = attend(query, key, value, layout, **kwargs).clone()
        for tree in layout.trees:
            start = tree.branches.start
            for length, following in zip(tree.lengths, tree.lengths[1:], strict=False):
                before = output[:, start : start + length].mean(dim=1, keepdim=True)
                start += length
                output[:, start : start + following] += amount * before
        return output

    return leaking


def flows_on(forward, hidden, layout):
    """Recurrent layers that run over the packed sequence as if it were one text."""
    return forward(hidden)


def passes_its_state_on(which):
    """Recurrent layers in which a branch begins with the convolution or the state that the one before it ended with."""

    def leaking(forward, hidden, layout):
        outputs = []
        for tree in layout.trees:
            state = packed_recurrence.LayerState()
            outputs.append(forward(hidden[:, tree.trunk], cache_params=state)[0])
            trunk, start = (state.convolution, state.recurrent), tree.branches.start
            for length in tree.lengths:
                given = {"convolution": trunk[0], "recurrent": trunk[1], which: getattr(state, which)}
                state = packed_recurrence.LayerState(**given)
                outputs.append(forward(hidden[:, start : start + length], cache_params=state)[0])
                start += length
        return torch.cat(outputs)[None]

    return leaking


def sees_the_branch_before(query, key, value, layout, **kwargs):
    """Attention by a mask that lets the branches of a prompt see each other, as a causal one over the sequence does."""
    joined = SimpleNamespace(trees=layout.trees, masked_chunks=[])
    for tree in layout.trees:
        trunk, tokens = tree.trunk.stop - tree.trunk.start, sum(tree.lengths)
        mask = torch.ones(tokens, trunk + tokens, dtype=torch.bool).tril(trunk)
        joined.masked_chunks.append([(tree.branches, mask)])
    return packed_attention.masked_attention(query, key, value, joined, kwargs.get("scaling"), 0.0).transpose(1, 2)


def positions_go_on(pack):
    """Positions of a branch that begin where the one before it ended."""

    def shifted(*args, **kwargs):
        inputs, layout, *rest = pack(*args, **kwargs)
        positions = inputs["position_ids"].clone()
        for tree in layout.trees:
            first, count = positions[..., tree.trunk.stop - 1 : tree.trunk.stop], sum(tree.lengths)
            positions[..., tree.branches] = first + 1 + torch.arange(count)
        return {**inputs, "position_ids": positions}, layout, *rest

    return shifted


ATTENTION, POSITIONS = (packed_attention, "packed_attention"), (shared_prompt, "_pack")
RECURRENCE = (packed_recurrence, "_packed_recurrence")
FAULTS = {
    "a little of attention": ("qwen3_vl", *ATTENTION, leak(0.01), False),
    "a little of attention, half": ("qwen3_vl", *ATTENTION, leak(0.01), True),  # lost in rounding, but not gone
    "mask": ("qwen2_5_vl", *ATTENTION, sees_the_branch_before, False),
    "positions": ("qwen3_vl", *POSITIONS, positions_go_on(shared_prompt._pack), False),
    "flow": ("qwen3_5", *RECURRENCE, flows_on, False),
    "flow, half": ("qwen3_5", *RECURRENCE, flows_on, True),
    "convolution": ("qwen3_5", *RECURRENCE, passes_its_state_on("convolution"), False),
    "state": ("qwen3_5", *RECURRENCE, passes_its_state_on("recurrent"), False),
}


@pytest.mark.parametrize(
    ("planted_fault", "long"),
    [*((name, False) for name in FAULTS), *((name, True) for name in ("a little of attention, half", "mask", "state"))],
)
def test_a_leak_between_branches_is_caught(make_trainer, tmp_path_factory, monkeypatch, caplog, planted_fault, long):
    """Each is exact on first branches; seen in full and in half precision, and named."""
    family, module, name, fault, half = FAULTS[planted_fault]
    if long:
        monkeypatch.setattr(scoring_trainer, "LONG", 0)
    checkpoint = str(save_tiny_checkpoint(tmp_path_factory.mktemp(family), family, seed=3, **SMALL_MODEL))
    for planted in (True, False) if half else (True,):
        with monkeypatch.context() as patch:
            if planted:
                patch.setattr(module, name, fault)
            trainer = make_trainer(checkpoint, bf16=half, max_steps=1)
            caplog.clear()
            trainer.train()
        assert trainer.shares_prompts is not planted, (family, values(trainer, "score/self_check"))
        warnings = [record for record in caplog.records if record.name == WARNINGS]
        assert len(warnings) == int(planted)


def test_a_model_that_cannot_share_is_scored_by_copies(make_trainer, tiny_qwen2_5, monkeypatch, caplog):
    def refuse(*args):
        raise SharingNotSupportedError("no packed sequences here")

    monkeypatch.setattr(shared_prompt, "_accept_packed_prompts", refuse)
    trainer = make_trainer(tiny_qwen2_5)
    trainer.train()
    (warning,) = [record for record in caplog.records if record.name == WARNINGS]
    assert "no packed sequences here" in warning.getMessage()
    assert not trainer.shares_prompts and not values(trainer, "score/self_check")
    assert trainer.state.global_step == 2


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, TypeError, RuntimeError])
def test_any_other_fault_of_the_packed_path_surfaces(make_trainer, tiny_qwen2_5, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error("not silently slower")

    monkeypatch.setattr(shared_prompt, "_pack", fail)
    with pytest.raises(error, match="not silently slower"):
        make_trainer(tiny_qwen2_5).train()


def test_the_check_can_be_left_out(make_trainer, tiny_qwen2_5):
    checked = make_trainer(tiny_qwen2_5)
    checked.train()
    unchecked = make_trainer(tiny_qwen2_5, check_shared_prompts=False)  # made now, as it sets the seed of the shuffle
    unchecked.train()
    assert values(unchecked, "score/self_check") == []
    assert_close(weights(checked), weights(unchecked), tolerance=0)


def test_what_the_check_tolerates():
    assert floor(torch.float32, "no") < floor(torch.float32, "bf16") == floor(torch.bfloat16, "no")
    scores, mask = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    assert by_branch(scores, scores + torch.tensor([0.0, 0.5, 9.0]), mask).tolist() == [0.25, pytest.approx(9.5 / 3)]
    assert by_branch(scores, scores * torch.nan, mask).tolist() == [torch.inf, torch.inf]
    assert by_branch(scores, scores * torch.nan, mask & False).tolist() == [0, 0]


# -- settings ---------------------------------------------------------------------------------------------------------


def test_checkpointing_shares_prompts_and_gives_the_same_weights(make_trainer, tiny_checkpoint, caplog):
    settings = {"optim": "sgd", "beta": 0.04, "num_iterations": 2}
    trainers = [make_trainer(tiny_checkpoint, gradient_checkpointing=on, **settings) for on in (False, True)]
    for trainer in trainers:
        trainer.train()
        assert trainer.shares_prompts
    assert not [record for record in caplog.records if record.name == WARNINGS]
    assert_close(weights(trainers[0]), weights(trainers[1]))


def test_states_experts_and_reference_train_as_with_copies(make_trainer, tmp_path):
    """Qwen3.5 MoE with the router's loss, KL, two prompts in a micro-batch and checkpointing: one step of SGD."""
    checkpoint = str(save_tiny_checkpoint(tmp_path / "model", "qwen3_5_moe", seed=1, **SMALL_MODEL))
    settings = {"optim": "sgd", "beta": 0.04, "max_steps": 1, "max_grad_norm": 0.0, "router_aux_loss_coef": 0.1}
    settings |= {"per_device_train_batch_size": 8, "gradient_checkpointing": True, "learning_rate": 0.1}
    trainers = [make_trainer(checkpoint, share_prompts=share, **settings) for share in (True, False)]
    start = weights(trainers[0])
    for trainer in trainers:
        trainer.train()
    shared, plain = trainers
    assert shared.shares_prompts and values(shared, "score/unique_prompts") == [0.25]
    assert values(shared, "aux_loss") == pytest.approx(values(plain, "aux_loss"), rel=1e-5)
    moved = {name for name, weight in weights(plain).items() if (weight - start[name]).abs().max() > 1e-4}
    assert any("mlp.gate" in name for name in moved) and any("linear_attn" in name for name in moved)
    assert_close(weights(shared), weights(plain), tolerance=2e-6)


def test_half_a_group_a_micro_batch(make_trainer, tiny_qwen2_5):
    """Groups larger than a micro-batch, KL, two iterations: shared prompts train as copies do."""
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_iterations": 2, "beta": 0.04}
    settings |= {"optim": "sgd", "max_grad_norm": 0.0}
    shared, plain = make_trainer(tiny_qwen2_5, **settings), make_trainer(tiny_qwen2_5, share_prompts=False, **settings)
    shared.train()
    plain.train()
    assert_close(weights(shared), weights(plain))
    assert set(values(shared, "score/unique_prompts")) == {0.5}
