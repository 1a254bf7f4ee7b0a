"""Each prompt once in all families, recurrent states and experts included: exact, and seen failing where it is not."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.models.mixtral import modeling_mixtral
from trl.trainer.utils import add_fused_lm_head

from invert_rl.grpo import packed_attention, packed_recurrence
from invert_rl.grpo.packed_attention import masked_attention
from invert_rl.grpo.packed_layout import PackedLayout, SharingNotSupportedError
from invert_rl.grpo.shared_prompt import add_shared_prompts
from invert_rl.models import family_of, load_model
from tests.invert_rl.grpo.double import in_double  # noqa: F401
from tests.invert_rl.grpo.scoring_batches import COMPLETION, batch_of, encode, plain_inputs, shared_inputs

ROWS = [0, 1, 1, 2, 0, 1, 0]
"""Prompt of each row: three prompts of unequal length, groups that are not together."""


@pytest.fixture
def different(family_checkpoint, world, rows):
    return encode(family_checkpoint, world, [("tvg", rows[0]), ("ar", rows[6]), ("vc", rows[11])])


def scoring_model(checkpoint, dtype=torch.float32, lora=False, checkpointing=False):
    model = load_model(checkpoint).to(dtype)
    model.config.get_text_config()._experts_implementation = "eager"  # the grouped kernel takes no fp64
    add_fused_lm_head(model)
    add_shared_prompts(model)
    if lora:
        targets = ["q_proj", "v_proj"]
        if family_of(model).recurrent_class:
            targets += ["in_proj_qkv", "in_proj_a", "out_proj"]
        model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
        model.to(dtype)
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def score(model, inputs, router=False):
    """Log-probabilities of the completions from the logits, the router's loss, and all gradients."""
    model.zero_grad()
    labels = inputs["labels"][:, -COMPLETION:]
    extra = {"output_router_logits": True} if router else {}
    output = model(**{name: value for name, value in inputs.items() if name != "labels"}, **extra)
    logits = output.logits if "shared_prompts" in inputs else output.logits[:, -COMPLETION - 1 : -1]
    scores = torch.log_softmax(logits, dim=-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    scores = scores.masked_fill(labels == -100, 0)
    loss = (scores * torch.linspace(-1, 1, scores.numel()).view_as(scores)).sum()
    aux = output.aux_loss if router else torch.zeros(())
    (loss + aux).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return scores.detach(), aux.detach(), gradients


def differences(gradients, others):
    """Of each parameter's gradient, relative to its norm."""
    assert gradients.keys() == others.keys()
    return {
        name: ((gradient - others[name]).norm() / gradient.norm().clamp(min=1e-12)).item()
        for name, gradient in gradients.items()
    }


@pytest.mark.parametrize(("lora", "checkpointing"), [(False, True), (True, False)])
def test_exact_in_double(family_checkpoint, different, in_double, lora, checkpointing):  # noqa: F811
    """Per branch 1e-10 of the log-probabilities and 1e-8 of each gradient's norm, routers' losses included."""
    different = [dataclasses.replace(p, pixel_values_videos=p.pixel_values_videos.double()) for p in different]
    prompts = [different[number] for number in ROWS]
    batch = batch_of(prompts, seed=0)
    model = scoring_model(family_checkpoint, torch.float64, lora, checkpointing)
    router = family_of(model).name.endswith("moe")
    plain = score(model, plain_inputs(prompts, batch), router)
    shared = score(model, shared_inputs(prompts, batch), router)
    assert plain[0].abs().sum() > 1
    assert (plain[0] - shared[0]).abs().amax(dim=1).max() <= 1e-10
    assert (plain[1] - shared[1]).abs() <= 1e-6  # transformers sums a router's counts in fp32
    worst = differences(plain[2], shared[2])
    assert max(worst.values()) <= (1e-6 if router else 1e-8), max(worst.items(), key=lambda item: item[1])


def with_other_padding(batch, prompts):
    """The same rows in reverse order behind more padding."""
    wider = {name: torch.nn.functional.pad(value, (11, 0)).flip(0) for name, value in batch.items()}
    wider["labels"][:, :11] = -100
    return plain_inputs(prompts[::-1], wider)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_in_fp32_within_the_noise_of_padding(family_checkpoint, different, seed):
    """1e-5 of log-probabilities; gradients within 1e-5, or three times what other padding alone changes in them."""
    prompts = [different[(number + seed) % 3] for number in ROWS]
    batch = batch_of(prompts, seed)
    model = scoring_model(family_checkpoint)
    plain = score(model, plain_inputs(prompts, batch))
    shared = score(model, shared_inputs(prompts, batch))
    assert (plain[0] - shared[0]).abs().max() <= 1e-5
    weights = torch.linspace(-1, 1, plain[0].numel()).view_as(plain[0])

    def other() -> dict[str, torch.Tensor]:
        model.zero_grad()
        inputs = with_other_padding(batch, prompts)
        labels = inputs.pop("labels")[:, -COMPLETION:]
        logits = model(**inputs).logits[:, -COMPLETION - 1 : -1]
        scores = torch.log_softmax(logits, dim=-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        (scores.masked_fill(labels == -100, 0).flip(0) * weights).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    noise, worst = differences(plain[2], other()), differences(plain[2], shared[2])
    decay = ("A_log", "dt_bias")
    for name in worst:
        # Few numbers with much cancellation in them: their noise is judged by the largest of its kind.
        kind = next((part for part in decay if name.endswith(part)), None)
        floor = max(value for key, value in noise.items() if key.endswith(kind)) if kind else noise[name]
        assert worst[name] <= max(1e-5, 3 * floor), (name, worst[name], floor)


def test_a_router_counts_tokens_as_in_copies(family_checkpoint, different, monkeypatch):
    """Counts of the experts and the loss that TRL adds, for prompts of unequal groups and completions with padding."""
    model = scoring_model(family_checkpoint)
    if not family_of(model).name.endswith("moe"):
        pytest.skip("a family without experts")
    prompts = [different[number] for number in ROWS]
    batch = batch_of(prompts, seed=0)
    counts = []
    original = modeling_mixtral.load_balancing_loss_func

    def count(logits, experts, top_k, mask):
        chosen = torch.cat(logits).topk(top_k).indices
        weight = mask.flatten().repeat(len(logits))[:, None].expand_as(chosen)
        counts.append(torch.zeros(experts).scatter_add_(0, chosen.flatten(), weight.flatten().float()))
        return original(logits, experts, top_k, mask)

    monkeypatch.setattr(modeling_mixtral, "load_balancing_loss_func", count)
    losses = [
        model(**inputs, fused_lm_head=True, output_router_logits=True).aux_loss.item()
        for inputs in (plain_inputs(prompts, batch), shared_inputs(prompts, batch))
    ]
    assert counts[0].sum() > 1000 and torch.equal(*counts)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_state_that_flows_from_branch_to_branch_is_seen(family_checkpoint, different, monkeypatch):
    """What these tests would miss if they looked at first branches alone: there the fault does not show."""
    model = load_model(family_checkpoint)
    if not family_of(model).recurrent_class:
        pytest.skip("a family without recurrent layers")

    def run_through(forward, hidden, layout):
        return forward(hidden)

    monkeypatch.setattr(packed_recurrence, "_packed_recurrence", run_through)
    add_shared_prompts(model)
    prompts = [different[0]] * 4
    batch = batch_of(prompts, seed=0)
    with torch.no_grad():
        plain = model(**plain_inputs(prompts, batch)).logits[:, -COMPLETION - 1 : -1]
        shared = model(**shared_inputs(prompts, batch)).logits
    kept = batch["attention_mask"][:, -COMPLETION:].bool()
    far = [(plain - shared).abs()[row][kept[row]].max().item() for row in range(4)]
    assert far[0] < 1e-5 and min(far[1:]) > 1e-4, far


def test_layers_of_an_unknown_kind_are_refused(tiny_qwen2_5, monkeypatch):
    model = load_model(tiny_qwen2_5)
    config = model.config.get_text_config()
    config.layer_types = ["linear_attention", *config.layer_types[1:]]
    with pytest.raises(SharingNotSupportedError, match="1 layers carry a state, 0"):
        add_shared_prompts(model)
    config.layer_types = ["sliding_attention", *config.layer_types[1:]]
    with pytest.raises(SharingNotSupportedError, match="sliding"):
        add_shared_prompts(model)


# -- attention --------------------------------------------------------------------------------------------------------

TREES = [(37, [5, 0, 9, 1]), (3, [2]), (50, [0, 0]), (300, [40, 70, 1])]


@pytest.mark.parametrize("heads", [(4, 4), (8, 2)])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_attention_without_masks_equals_masked_attention(heads, scaling):
    """Outputs and gradients in double: unequal trees, branches of one token and of none, grouped heads."""
    layout = PackedLayout(TREES, torch.device("cpu"))
    torch.manual_seed(0)
    inputs = [torch.randn(1, n, layout.length, 16, dtype=torch.double, requires_grad=True) for n in (*heads, heads[1])]
    assert packed_attention.has_kernels(inputs[0], dropout=0.0)
    new = packed_attention.packed_attention(*inputs, layout, scaling=scaling)
    old = masked_attention(*inputs, layout, scaling, 0.0).transpose(1, 2)
    assert (new - old).abs().max() < 1e-12
    weight = torch.randn_like(new)
    for a, b in zip(torch.autograd.grad(new, inputs, weight), torch.autograd.grad(old, inputs, weight), strict=True):
        assert (a - b).abs().max() < 1e-12


def test_attention_without_masks_passes_gradcheck():
    layout = PackedLayout([(4, [2, 3])], torch.device("cpu"))
    torch.manual_seed(0)
    inputs = [torch.randn(1, n, layout.length, 8, dtype=torch.double, requires_grad=True) for n in (2, 1, 1)]
    assert torch.autograd.gradcheck(lambda *tensors: packed_attention.packed_attention(*tensors, layout), inputs)


def test_no_tensor_grows_with_trunk_times_branches(monkeypatch):
    """At a trunk of 4,096 and branches of 1,024 tokens the largest tensor is one of the inputs' size."""
    layout = PackedLayout([(4096, [256] * 4)], torch.device("cpu"))
    inputs = [torch.randn(1, n, layout.length, 8, requires_grad=True) for n in (4, 2, 2)]
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for value in result if isinstance(result, tuple | list) else [result]:
                if isinstance(value, torch.Tensor):
                    largest.append(value.numel())
            return result

    with Watch():
        packed_attention.packed_attention(*inputs, layout).sum().backward()
    assert max(largest) <= 2 * inputs[0].numel()
