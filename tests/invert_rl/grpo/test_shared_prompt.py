"""Each prompt once: the packed forward equals the forward over copies, in all settings, with less memory."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trl.trainer.utils import add_fused_lm_head

from invert_rl.grpo.packed_attention import NAME
from invert_rl.grpo.shared_prompt import add_shared_prompts
from invert_rl.models import load_model
from tests.invert_rl.grpo.scoring_batches import (
    batch_of,
    encode,
    mixed_groups,
    plain_inputs,
    score_and_gradients,
    shared_inputs,
)


@pytest.fixture
def prompts(tiny_checkpoint, world, rows):
    return encode(tiny_checkpoint, world, [("tvg", rows[0]), ("tvg", rows[6]), ("ar", rows[11])])


def scoring_model(checkpoint, lora=False, checkpointing=False, **kwargs):
    model = load_model(checkpoint, **kwargs)
    add_fused_lm_head(model, temperature=0.9, outputs=("log_probs", "entropy"))
    add_shared_prompts(model)
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def assert_equal_scores(plain, shared):
    assert plain[0].abs().sum() > 1
    assert (plain[0] - shared[0]).abs().max() <= 1e-5
    assert (plain[1] - shared[1]).abs().max() <= 1e-5
    assert plain[2].keys() == shared[2].keys()
    for name, gradient in plain[2].items():
        assert (gradient - shared[2][name]).norm() <= 1e-5 * gradient.norm() + 1e-9, name


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_the_plain_forward(tiny_checkpoint, prompts, seed, lora, checkpointing):
    """Log-probabilities, entropies, gradients against G copies of each prompt, with padding and split groups."""
    rows = mixed_groups(prompts, seed)
    batch = batch_of(rows, seed)
    torch.manual_seed(seed)
    model = scoring_model(tiny_checkpoint, lora, checkpointing)
    plain = score_and_gradients(model, plain_inputs(rows, batch))
    assert_equal_scores(plain, score_and_gradients(model, shared_inputs(rows, batch)))


def test_a_completion_without_tokens(tiny_checkpoint, prompts):
    """A truncated completion that TRL masks altogether scores zero and takes nothing from the others."""
    rows = [prompts[0], prompts[0], prompts[1]]
    batch = batch_of(rows, seed=0)
    for name in ("attention_mask", "labels"):
        batch[name] = batch[name].clone()
    batch["attention_mask"][1, -9:] = 0
    batch["labels"][1] = -100
    model = scoring_model(tiny_checkpoint)
    plain = score_and_gradients(model, plain_inputs(rows, batch))
    shared = score_and_gradients(model, shared_inputs(rows, batch))
    assert shared[0][1].abs().sum() == 0
    assert_equal_scores(plain, shared)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_other_forwards_stay_the_same(tiny_checkpoint, prompts, attention):
    rows = mixed_groups(prompts, seed=0)
    inputs = plain_inputs(rows, batch_of(rows, seed=0))
    model = load_model(tiny_checkpoint, attn_implementation=attention).eval()
    with torch.no_grad():
        before = model(**inputs).logits
        add_fused_lm_head(model)
        add_shared_prompts(model)
        after = model(**inputs).logits
    kept = inputs["attention_mask"].bool()
    assert (before - after)[kept].abs().max() <= (0 if attention == "sdpa" else 1e-5)


def test_the_attention_is_not_saved(tiny_checkpoint, tmp_path):
    scoring_model(tiny_checkpoint).save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
    load_model(str(tmp_path))


def saved_bytes(model, inputs):
    """Bytes of activations kept for the backward pass, each storage counted once, weights not."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)  # kept alive, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**inputs, fused_lm_head=True).log_probs.sum().backward()
    return sum(size for size, _ in storages.values())


def test_checkpointing_keeps_less(tiny_checkpoint, prompts):
    """A group of eight: sharing alone and checkpointing alone keep less, both together keep least."""
    rows = prompts[:1] * 8
    batch = batch_of(rows, seed=0)
    plain, shared = plain_inputs(rows, batch), shared_inputs(rows, batch)
    model, checkpointed = scoring_model(tiny_checkpoint), scoring_model(tiny_checkpoint, checkpointing=True)
    kept = {
        "plain": saved_bytes(model, plain),
        "shared": saved_bytes(model, shared),
        "plain, checkpointed": saved_bytes(checkpointed, plain),
        "shared, checkpointed": saved_bytes(checkpointed, shared),
    }
    assert kept["shared"] < kept["plain"] / 3, kept
    assert kept["shared, checkpointed"] < kept["shared"] / 2, kept
    assert kept["shared, checkpointed"] < kept["plain, checkpointed"] / 3, kept


def test_bf16_errs_no_more_than_copies_do(tiny_checkpoint, prompts):
    """In bf16 both ways are off from fp32; sharing is not further off than copying."""
    rows = mixed_groups(prompts, seed=0)
    batch = batch_of(rows, seed=0)
    exact = score_and_gradients(scoring_model(tiny_checkpoint), plain_inputs(rows, batch))
    half = scoring_model(tiny_checkpoint, dtype=torch.bfloat16)
    plain = score_and_gradients(half, plain_inputs(rows, batch))
    shared = score_and_gradients(half, shared_inputs(rows, batch))

    def error(result):
        return (result[0].float() - exact[0]).abs().mean()

    def gradient_error(result):
        differences = [
            (result[2][name].float() - gradient).norm() / gradient.norm() for name, gradient in exact[2].items()
        ]
        return torch.stack(differences).median()

    assert 0 < error(plain) < 0.1
    assert error(shared) <= 1.5 * error(plain)
    assert gradient_error(shared) <= 1.5 * gradient_error(plain)
