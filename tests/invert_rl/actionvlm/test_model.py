"""The whole model: what reaches the heads, which losses train what, what the ablations change."""

from __future__ import annotations

import pytest
import torch

from invert_rl.actionvlm.advantage import aggregate, language_weight
from tests.invert_rl.actionvlm.small import experiment


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One that nobody trains."""
    return experiment(tmp_path_factory.mktemp("run"))


def batch_of(run, vision_only: bool) -> dict:
    steps = run.batches().schedule.steps_per_epoch
    return run.batches()(0 if vision_only else steps, 0)


def test_vision_only_features_are_the_projected_ones_and_never_see_the_evidence(run):
    batch = batch_of(run, True)
    features = batch["features"]
    found = run.model.features(features, batch["mask"], vision_only=True)
    assert found.classify is found.localize
    torch.testing.assert_close(found.classify, run.model.projection(features[..., :32]))
    other = features.clone()
    other[..., 32:] = 7.0
    assert torch.equal(run.model.features(other, batch["mask"], vision_only=True).classify, found.classify)
    changed = run.model.features(other, batch["mask"])
    assert not torch.allclose(run.model.features(features, batch["mask"]).classify, changed.classify)


def test_language_is_added_with_the_weight_of_its_predicted_advantage(run):
    batch = batch_of(run, False)
    model = run.model
    with torch.no_grad():
        model.advantage.weight.normal_(std=0.5)
        middle = model.features(batch["features"], batch["mask"]).advantage.median()
        model.advantage.bias.sub_(middle)
        found = model.features(batch["features"], batch["mask"])
        language = model.language(model.read(batch["features"], batch["mask"]), batch["mask"])
        advantage = model.advantage(language.advantage)[..., 0]
        model.advantage.weight.zero_()
        model.advantage.bias.fill_(1.0)
    assert (found.weight == 0).any() and (found.weight > 0).any()
    torch.testing.assert_close(found.weight, language_weight(advantage))
    vision = model.projection(batch["features"][..., :32])
    torch.testing.assert_close(found.localize, aggregate(vision, model.language_norm(language.localize), found.weight))
    torch.testing.assert_close(found.classify, aggregate(vision, model.language_norm(language.classify), found.weight))


def test_each_head_reads_its_own_stream(run):
    model = run.model.eval()
    batch = batch_of(run, False)
    with torch.no_grad():
        found = model.features(batch["features"], batch["mask"])
        both = model.detect(found, batch["mask"])
        classify = model.detector(found.classify, batch["mask"])
        localize = model.detector(found.localize, batch["mask"])
    model.train()
    torch.testing.assert_close(both.logits, classify.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both.offsets, localize.offsets, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(both.offsets, classify.offsets)


def gradients(run, vision_only: bool, **weights: float) -> dict[str, float]:
    """Largest gradient of each part of the model after one batch."""
    run.model.zero_grad()
    for name, value in weights.items():
        setattr(run.model.config, name, value)
    batch = batch_of(run, True)
    run.model(**batch)  # class means
    run.model.zero_grad()
    run.model(**batch_of(run, vision_only))["loss"].backward()
    found: dict[str, float] = {}
    for name, value in run.model.named_parameters():
        part = ".".join(name.split(".")[:2]) if name.startswith("language.") else name.split(".")[0]
        largest = 0.0 if value.grad is None else float(value.grad.abs().max())
        found[part] = max(found.get(part, 0.0), largest)
    return found


def test_a_vision_only_batch_trains_neither_the_language_model_nor_the_advantage(tmp_path):
    found = gradients(experiment(tmp_path), vision_only=True)
    assert found["projection"] > 0 and found["detector"] > 0
    assert all(found[part] == 0 for part in ("language.llm", "language.special", "advantage", "language_evidence"))


def test_a_batch_of_both_trains_everything_and_without_its_loss_the_advantage_still_learns(tmp_path):
    run = experiment(tmp_path)
    assert all(value > 0 for value in gradients(run, vision_only=False).values())
    alone = gradients(run, vision_only=False, advantage_weight=0.0, text_weight=0.0)
    assert alone["advantage"] > 0  # λ is not detached: "learnable λ without L_adv"
    assert gradients(run, vision_only=False, fixed_weight=0.4)["advantage"] == 0


def test_the_loss_is_equation_9(tmp_path):
    run = experiment(tmp_path)
    run.model(**batch_of(run, True))
    losses = run.model(**batch_of(run, False))
    expected = losses["language/classification"] + losses["language/regression"]
    expected = expected + 0.1 * losses["language/advantage"] + 0.1 * losses["language/text"]
    torch.testing.assert_close(losses["loss"], expected)
    assert float(losses["language/weight"].detach()) == pytest.approx(0.4621, abs=1e-4)  # a bias of 1


def test_a_held_weight_stays_where_the_bias_puts_it_while_the_advantage_learns(tmp_path):
    run = experiment(tmp_path, advantage_hold_epochs=2)
    run.model(**batch_of(run, True))
    with torch.no_grad():
        run.model.advantage.bias.fill_(-1.0)
    losses = run.model(**batch_of(run, False))
    assert float(losses["language/weight"].detach()) == pytest.approx(0.4621, abs=1e-4)
    losses["loss"].backward()
    assert run.model.advantage.bias.grad.abs() > 0
    after = {**batch_of(run, False), "epoch": 3}
    assert float(run.model(**after)["language/weight"].detach()) == 0.0


@pytest.mark.parametrize(
    ("changes", "weight"),
    [({"fixed_lambda": 0.2}, 0.2), ({"streams": "language"}, 1.0), ({"feature_tokens": "vision"}, 0.4621)],
)
def test_ablations_of_the_weight_and_the_streams(tmp_path, changes, weight):
    run = experiment(tmp_path, **changes)
    batch = batch_of(run, False)
    found = run.model.features(batch["features"], batch["mask"])
    assert found.weight[batch["mask"]].detach().mean().item() == pytest.approx(weight, abs=1e-4)
    if changes.get("streams") == "language":
        assert not any(run.batches()(step, 0)["vision_only"] for step in range(4))
        other = batch["features"].clone()
        run.model.projection.weight.data.zero_()
        blind = run.model.features(other, batch["mask"])
        assert not torch.allclose(blind.classify, found.classify)  # vision comes in through the language model alone
        run.model.language_evidence.weight.data.zero_()
        assert torch.allclose(
            *(run.model.features(x, batch["mask"]).classify for x in (other, torch.zeros_like(other)))
        )


def test_vision_alone_needs_no_language_model_and_has_no_turns(tmp_path):
    run = experiment(tmp_path, streams="vision")
    assert run.model.language is None and run.tokenizer is None
    batch = run.batches()(2, 0)
    assert not batch["vision_only"] and batch["answers"] is None
    assert set(run.model(**batch)) == {"loss", "vision/classification", "vision/regression", "vision/weight"}


def test_with_lora_checkpoints_leave_the_frozen_weights_out(tmp_path):
    run = experiment(tmp_path, lora_rank=4, lora_alpha=8)
    state = run.model.state_dict()
    frozen = [name for name, value in run.model.named_parameters() if not value.requires_grad]
    assert frozen and not set(frozen) & state.keys()
    assert any("lora_A" in name for name in state)
    other = experiment(tmp_path, lora_rank=4, lora_alpha=8, seed=3)
    with torch.no_grad():
        for value in other.model.parameters():
            if value.requires_grad:
                value.add_(1.0)
    other.model.load_state_dict(state)
    assert all(torch.equal(value, other.model.state_dict()[name]) for name, value in state.items())
    with pytest.raises(RuntimeError, match="projection"):
        other.model.load_state_dict({name: value for name, value in state.items() if "projection" not in name})


def test_a_batch_in_bfloat16_autocast_gives_nearly_the_same_losses(tmp_path):
    run = experiment(tmp_path, lora_rank=4, lora_alpha=8, lora_dropout=0.0)
    run.model(**batch_of(run, True))
    run.model.detector.normalizer.momentum = 1.0  # or the second batch is divided by another count
    exact = run.model(**batch_of(run, False))
    run.model.language.llm.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = run.model(**batch_of(run, False))
    for name, value in exact.items():
        assert float(rough[name].detach()) == pytest.approx(float(value.detach()), rel=0.05, abs=0.01), name
    rough["loss"].backward()


WRITTEN = {"lambda_source": "text", "advantage_weight": 0.0, "advantage_hold_epochs": 0}


def test_the_language_model_can_write_the_weight(tmp_path):
    """λ of a frame is the mean of 0, 1/9, .., 1 under what would come behind its [adv]; its loss reaches the model."""
    run = experiment(tmp_path, **WRITTEN)
    language, tokenizer = run.model.language, run.tokenizer
    assert tokenizer.convert_ids_to_tokens(language.digits) == list("0123456789")
    assert "digit from 0 to 9" in tokenizer.decode(language.prompt.before)
    batch = batch_of(run, False)
    found = run.model.features(batch["features"], batch["mask"])
    assert found.weight.shape == batch["mask"].shape and ((found.weight > 0) & (found.weight < 1)).all()
    states = language(run.model.read(batch["features"], batch["mask"]), batch["mask"]).advantage
    logits = language.llm.lm_head(states[1, 5])[language.digits]
    shares = torch.exp(logits) / torch.exp(logits).sum()
    expected = sum(digit / 9 * float(share) for digit, share in enumerate(shares))
    assert float(found.weight[1, 5]) == pytest.approx(expected, abs=1e-5)
    losses = run.model(**batch)
    assert "language/advantage" not in losses
    losses["loss"].backward()
    assert run.model.language.llm.lm_head.weight.grad[language.digits].abs().max() > 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"advantage_weight": 0.1}, "without L_adv"),
        ({"advantage_hold_epochs": 3}, "without L_adv"),
        ({"fixed_lambda": 0.4}, "no fixed_lambda"),
        ({"streams": "vision"}, "needs streams both"),
    ],
)
def test_a_written_weight_excludes_the_others(change, why, tmp_path):
    with pytest.raises(ValueError, match=why):
        experiment(tmp_path, **{**WRITTEN, **change})


def test_the_regression_starts_open(tmp_path):
    """Else its ReLU can stay shut for good: one of nine runs of the default ended so."""
    for seed in range(6):
        run = experiment(tmp_path / str(seed), seed=seed)
        batch = batch_of(run, True)
        with torch.no_grad():
            outputs = run.model.detect(
                run.model.features(batch["features"], batch["mask"], vision_only=True), batch["mask"]
            )
        assert (outputs.offsets[outputs.mask] > 0).float().mean() > 0.9
