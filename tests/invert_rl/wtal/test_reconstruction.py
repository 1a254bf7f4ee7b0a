"""Hidden words cannot be read off the input, closed snippets tell nothing, and each update trains its own part."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from invert_rl.wtal.descriptions import words_of
from invert_rl.wtal.reconstructor import WeightedAttention, sinusoids, word_errors
from invert_rl.wtal.words import PADDING, Vocabulary, choose_masked, pad_words
from tests.invert_rl.wtal import small


def test_words_of_a_text() -> None:
    assert words_of("A person's arm rises, then -- falls.") == ["a", "person's", "arm", "rises", "then", "falls"]
    assert words_of("跳 über 3 Stufen") == ["跳", "über", "3", "stufen"]
    vocabulary = Vocabulary.of(["b a", "a c"])
    assert (vocabulary.words, len(vocabulary), vocabulary.ids("C a")) == (("a", "b", "c"), 4, [3, 1])
    assert pad_words([[1, 2, 3], [4]], 2).tolist() == [[1, 2], [4, PADDING]]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 9, 20])
def test_a_third_is_hidden_at_least_one_and_wherever_it_stands(length: int) -> None:
    generator = np.random.default_rng(length)
    for _ in range(20):
        ids = torch.from_numpy(generator.integers(1, 8, (2, length + 2)))
        ids[:, length:] = PADDING
        masked = choose_masked(ids, generator)
        assert not masked[:, length:].any()
        for row, hidden in zip(ids.tolist(), masked.tolist(), strict=True):
            gone = {word for word, is_hidden in zip(row, hidden, strict=True) if is_hidden}
            assert all(is_hidden for word, is_hidden in zip(row, hidden, strict=True) if word in gone)
            fewer = min(sum(word != other for word in row if word in gone) for other in gone)
            assert sum(hidden) >= max(1, length // 3) > 0
            assert fewer < max(1, length // 3)  # the last one was needed


def test_every_word_is_hidden_equally_often() -> None:
    ids = torch.arange(1, 10)[None].repeat(4000, 1)
    share = choose_masked(ids, np.random.default_rng(0)).float().mean(dim=0)
    assert share.tolist() == pytest.approx([1 / 3] * 9, abs=0.03)


def test_hidden_words_leave_no_trace_in_the_input() -> None:
    """Whatever a hidden word is, input and logits are the same to the last bit; an open word changes them."""
    net, batch = small.reconstructor().eval(), small.batch()
    features, masked = torch.randn(4, small.ROWS, small.RGB + small.FLOW), batch["masked"]
    use = torch.rand(4, small.ROWS)
    first = net(features, use, batch["words"], masked)
    for word in range(1, small.WORDS + 1):
        other = torch.where(masked, torch.tensor(word), batch["words"])
        assert torch.equal(net.word_inputs(other, masked), net.word_inputs(batch["words"], masked))
        assert torch.equal(net(features, use, other, masked), first)
    opened = torch.zeros_like(masked)
    assert not torch.equal(net(features, use, batch["words"], opened), first)
    changed = torch.where(masked, batch["words"] % small.WORDS + 1, batch["words"])
    logits = [net(features, use, words, opened) for words in (batch["words"], changed)]
    assert not torch.allclose(logits[0][:, 2:4], logits[1][:, 2:4])  # without masks the word is there to read


def test_a_words_vector_is_that_words_alone() -> None:
    """The neighbours of a hidden word do not carry it, as states of a text encoder would."""
    net, words = small.reconstructor(), torch.tensor([[1, 2, 3, 4]])
    masked = torch.tensor([[False, True, False, False]])
    inputs = net.word_inputs(words, masked)[0]
    assert torch.equal(inputs[0], net.start)
    assert torch.equal(inputs[1], net.vectors[1])
    assert torch.equal(inputs[2], net.hidden_word)
    assert torch.equal(inputs[3], net.vectors[3])


def test_a_word_is_predicted_from_earlier_words_only() -> None:
    net, batch = small.reconstructor().eval(), small.batch()
    features, use = torch.randn(4, small.ROWS, small.RGB + small.FLOW), torch.rand(4, small.ROWS)
    opened = torch.zeros_like(batch["masked"])
    first = net(features, use, batch["words"], opened)
    for place in range(6):
        words = batch["words"].clone()
        words[:, place] = words[:, place] % small.WORDS + 1
        second = net(features, use, words, opened)
        assert torch.equal(second[:, : place + 1], first[:, : place + 1])
        assert place == 5 or not torch.allclose(second[:, place + 1], first[:, place + 1])


def test_closed_snippets_tell_nothing() -> None:
    net, batch = small.reconstructor().eval(), small.batch()
    features = torch.randn(4, small.ROWS, small.RGB + small.FLOW)
    use = torch.ones(4, small.ROWS)
    use[:, 3:6] = 0
    other = features.clone()
    other[:, 3:6] = torch.randn(4, 3, small.RGB + small.FLOW)
    inputs = batch["words"], batch["masked"]
    assert torch.allclose(net(features, use, *inputs), net(other, use, *inputs), atol=1e-6)
    assert not torch.allclose(net(features, use * 0 + 1, *inputs), net(other, use * 0 + 1, *inputs), atol=1e-3)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_without_weights_is_pytorchs(causal: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = WeightedAttention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    parts = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data = torch.cat([part.weight.data for part in parts])
    theirs.in_proj_bias.data = torch.cat([part.bias.data for part in parts])
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x, memory = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    later = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    expected, _ = theirs(x, memory, memory, attn_mask=later)
    assert torch.allclose(ours(x, memory, causal=causal), expected, atol=1e-6)
    use = torch.full((3, 5), 0.3)  # equal weights cancel
    assert torch.allclose(ours(x, memory, use, causal=causal), expected, atol=1e-5)
    use[:, 4] = 0
    expected, _ = theirs(x, memory[:, :4], memory[:, :4], attn_mask=None if later is None else later[:, :4])
    assert torch.allclose(ours(x, memory, use, causal=causal), expected, atol=1e-5)


def test_positions_are_sines_and_cosines() -> None:
    found = sinusoids(3, 4)
    assert found[0].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert found[2].tolist() == pytest.approx([math.sin(2), math.sin(2e-4), math.cos(2), math.cos(2e-4)])


def test_word_errors_are_smoothed_and_skip_padding() -> None:
    torch.manual_seed(0)
    logits, words = torch.randn(2, 3, 5), torch.tensor([[1, 2, 0], [4, 3, 1]])
    found = word_errors(logits, words)
    log = F.log_softmax(logits, dim=-1)
    for sample, length in ((0, 2), (1, 3)):
        each = [0.9 * -log[sample, i, words[sample, i]] + 0.1 * -log[sample, i].mean() for i in range(length)]
        assert found[sample].item() == pytest.approx((sum(each) / length).item(), rel=1e-5)
    only = word_errors(logits, words, torch.tensor([[False, True, False], [False, False, True]]))
    expected = [0.9 * -log[s, i, words[s, i]] + 0.1 * -log[s, i].mean() for s, i in ((0, 1), (1, 2))]
    assert torch.allclose(only, torch.stack(expected))


def test_completeness_by_its_three_errors() -> None:
    """Hinges of CE(A) against CE(all) + 0.1 and CE(1 - A) + 0.15, computed from the parts."""
    branch, batch = small.model().reconstruction, small.batch()
    assert branch is not None
    branch.eval()
    inputs = batch["words"], batch["masked"]
    losses, attention = branch.completeness_losses(batch["features"], *inputs)
    found, gated = branch.attend(batch["features"])
    assert torch.equal(found, attention)
    own, whole, rest = (
        word_errors(branch.reconstructor(gated, use, *inputs), batch["words"])
        for use in (attention, attention * 0 + 1, 1 - attention)
    )
    assert losses["hard"].item() == pytest.approx((own - whole + 0.1).clamp(min=0).mean().item(), abs=1e-6)
    assert losses["easy"].item() == pytest.approx((own - rest + 0.15).clamp(min=0).mean().item(), abs=1e-6)
    reconstruction = branch.reconstruction_loss(batch["features"], *inputs)
    assert reconstruction.item() == pytest.approx((own.mean() + whole.mean()).item(), rel=1e-5)


def test_what_the_attention_tells_is_compared_with_all_and_none() -> None:
    branch, batch = small.model().reconstruction, small.batch()
    assert branch is not None
    branch.eval()
    found = branch.compare(batch["features"], batch["words"], batch["masked"])
    attention, gated = branch.attend(batch["features"])
    uses = (attention, attention * 0 + 1, 1 - attention, attention * 0)
    for name, use in zip(("attention", "all", "complement", "none"), uses, strict=True):
        errors = word_errors(branch.reconstructor(gated, use, batch["words"], batch["masked"]), batch["words"])
        assert torch.equal(found[name], errors)


def trained(model: nn.Module, phase: str) -> set[str]:
    """Top names of the parameters that a phase gives a gradient."""
    model.zero_grad(set_to_none=True)
    model(**small.batch(), phase=phase)["loss"].backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_each_update_trains_its_part_and_no_other() -> None:
    model = small.model()
    names = {
        phase: {name for name, p in model.named_parameters() if any(p is q for q in model.phase_parameters(phase))}
        for phase in model.phases
    }
    assert set().union(*names.values()) == {name for name, _ in model.named_parameters()}
    assert sum(map(len, names.values())) == len(set().union(*names.values()))
    assert trained(model, "reconstructor") == names["reconstructor"]
    assert trained(model, "completeness") == names["completeness"]
    localizer = trained(model, "localizer")
    unused = {"base.classifier.weight", "base.classifier.bias"}  # text takes the last layer's place
    assert localizer == names["localizer"] - unused


def test_switches() -> None:
    batch = small.batch()
    base = small.model(matching=False, reconstruction=False)
    assert base.phases == ("localizer",)
    own = base.base.losses(base.activations(batch["features"]), batch["labels"], batch["pairs"], batch["progress"])
    assert set(base(**batch)) == {"loss", *own}
    assert set(small.model(reconstruction=False)(**batch)) == {"loss", *own, "alignment"}
    completed = small.model(matching=False)
    assert set(completed(**batch)) == {"loss", *own, "from_reconstruction"}
    assert set(completed(**batch, phase="completeness")) == {"loss", "hard", "easy", "from_localizer"}
    apart = small.model(distill=False)
    assert set(apart(**batch)) == {"loss", *own, "alignment"}
    assert set(apart(**batch, phase="completeness")) == {"loss", "hard", "easy"}
    with pytest.raises(ValueError, match="phase must be one of"):
        base(**batch, phase="completeness")
    with pytest.raises(ValueError, match="needs words and masked"):
        completed(**{**batch, "words": None}, phase="completeness")


def test_weights_scale_their_terms() -> None:
    batch = small.batch()
    once, twice = small.model(lambda1=1.0, lambda2=1.0, mu1=1.0), small.model(lambda1=2.0, lambda2=3.0, mu1=4.0)
    for model in (once, twice):
        model.eval()
    for phase, factors in (
        ("localizer", {"from_reconstruction": 2, "alignment": 3, "mil": 1}),
        ("completeness", {"from_localizer": 2, "hard": 4, "easy": 4}),
    ):
        first, second = once(**batch, phase=phase), twice(**batch, phase=phase)
        for name, factor in factors.items():
            assert second[name].item() == pytest.approx(factor * first[name].item(), rel=1e-5)
        assert second["loss"].item() == pytest.approx(
            sum(value.item() for name, value in second.items() if name != "loss"), rel=1e-5
        )
