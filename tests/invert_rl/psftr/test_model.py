"""The whole model: shapes, masks, padding, order of classes, ablations, files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_prep.errors import DataError
from invert_rl.psftr.config import SPDE_MODES, PSFTRConfig
from invert_rl.psftr.losses import PSFTRLearner
from invert_rl.psftr.model import load_psftr, parameter_groups, save_psftr
from tests.invert_rl.psftr.conftest import small_config, small_model

FIELDS = ("logits", "segments", "actionness")
ABLATIONS = [
    {"text_to_vision": to_vision, "vision_to_text": to_text, "text_to_query": to_query}
    for to_vision in (False, True)
    for to_text in (False, True)
    for to_query in (False, True)
]


def test_shapes(batch) -> None:
    features, mask, text = batch
    outputs = small_model()(features, mask, text)
    assert outputs.logits.shape == (3, 7, 5)
    assert outputs.segments.shape == (3, 7, 2)
    assert outputs.actionness.shape == (3, 7)
    assert outputs.saliency.shape == (3, 19)
    assert outputs.earlier == []
    assert ((outputs.segments > 0) & (outputs.segments < 1)).all()
    assert not outputs.saliency[~mask].any()


@pytest.mark.parametrize(
    "changes", [{}, {"refine": False}, {"spde": "concat_mlp"}, {"conv_layers": 2}, {"spde_scale": None}]
)
def test_a_padded_batch_equals_single_samples(batch, changes: dict) -> None:
    features, mask, text = batch
    model = small_model(**changes)
    padded = model(features, mask, text)
    for number, rows in enumerate(mask.sum(dim=1).tolist()):
        alone = model(features[number : number + 1, :rows], mask[number : number + 1, :rows], text)
        for name in FIELDS:
            assert torch.allclose(getattr(padded, name)[number], getattr(alone, name)[0], atol=1e-4), name
        assert torch.allclose(padded.saliency[number, :rows], alone.saliency[0], atol=1e-4)


def test_what_stands_in_padding_has_no_influence(batch) -> None:
    features, mask, text = batch
    model = small_model()
    changed = torch.where(mask[..., None], features, torch.full_like(features, 1e3))
    for name in FIELDS:
        assert torch.equal(getattr(model(features, mask, text), name), getattr(model(changed, mask, text), name))


def test_permuted_classes_permute_the_scores_and_nothing_else(batch) -> None:
    features, mask, text = batch
    model = small_model()
    order = torch.tensor([3, 0, 4, 1, 2])
    plain, permuted = model(features, mask, text), model(features, mask, text[order])
    assert torch.allclose(permuted.logits, plain.logits[..., order], atol=1e-4)
    assert torch.allclose(permuted.segments, plain.segments, atol=1e-5)
    assert torch.allclose(permuted.actionness, plain.actionness, atol=1e-5)
    assert not torch.allclose(plain.logits, plain.logits[..., order], atol=1e-2)


@pytest.mark.parametrize(
    "paths", ABLATIONS, ids=lambda paths: "-".join(name for name, on in paths.items() if on) or "none"
)
def test_table_2_text_moves_segments_by_the_paths_that_are_there_alone(batch, paths: dict) -> None:
    features, mask, text = batch
    model = small_model(**paths)
    plain, other = (model(features, mask, words).segments for words in (text, text.flip(-1)))
    # without a way from the text to the queries it can only change the class scores
    reaches = paths["text_to_vision"] or paths["text_to_query"]
    assert torch.equal(plain, other) != reaches


@pytest.mark.parametrize(
    "changes", [*ABLATIONS, *({"spde": mode} for mode in SPDE_MODES), {"refine": False}, {"auxiliary": True}]
)
def test_every_parameter_of_an_ablation_learns(batch, changes: dict) -> None:
    features, mask, text = batch
    model = small_model(**changes).train()
    segments = [torch.tensor([[0.4, 0.2], [0.7, 0.3]]), torch.zeros(0, 2), torch.tensor([[0.5, 0.5]])]
    labels = [torch.tensor([1, 4]), torch.zeros(0, dtype=torch.long), torch.tensor([0])]
    PSFTRLearner(model)(features, mask, text, segments, labels)["loss"].backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert idle == {name for name, _ in model.named_parameters() if leads_nowhere(name, model.config)}


def leads_nowhere(name: str, config: PSFTRConfig) -> bool:
    """Whether a part of the encoder refines a text that neither queries nor video features read."""
    if config.text_to_query or not name.startswith("encoder"):
        return False
    if not config.text_to_vision:
        return "text" in name
    last = name.startswith(f"encoder.layers.{config.encoder_layers - 1}.")
    return last and any(part in name for part in ("cross_text", "feedforward_text"))


def test_spde_reaches_the_class_scores_alone(batch) -> None:
    features, mask, text = batch
    with_it, without = small_model(spde="mlp_residual"), small_model(spde="none")
    without.load_state_dict(
        {name: value for name, value in with_it.state_dict().items() if not name.startswith("spde")}
    )
    first, second = with_it(features, mask, text), without(features, mask, text)
    assert torch.equal(first.segments, second.segments)
    assert torch.equal(first.actionness, second.actionness)
    assert not torch.allclose(first.logits, second.logits, atol=1e-3)


def test_auxiliary_outputs_are_those_of_the_earlier_layers(batch) -> None:
    features, mask, text = batch
    model = small_model(auxiliary=True)
    outputs = model(features, mask, text)
    assert len(outputs.earlier) == 2
    model.config.auxiliary = False
    assert torch.equal(model(features, mask, text).logits, outputs.logits)
    assert not torch.allclose(outputs.earlier[0].segments, outputs.segments, atol=1e-3)


def test_groups_hold_every_parameter_once() -> None:
    model = small_model()
    fast, sampling, convs = parameter_groups(model, 1e-4, 1e-5, 0.1, 1e-3)
    assert fast["weight_decay"] == sampling["weight_decay"] == convs["weight_decay"] == 1e-3
    assert (fast["lr"], sampling["lr"], convs["lr"]) == (1e-4, pytest.approx(1e-5), 1e-5)
    grouped = [parameter for group in (fast, sampling, convs) for parameter in group["params"]]
    assert len(grouped) == len({id(parameter) for parameter in grouped}) == len(list(model.parameters()))
    assert any(parameter is model.encoder.layers[0].self_video.offsets.weight for parameter in sampling["params"])
    assert all(parameter is not model.saliency[0].conv.weight for parameter in convs["params"])


def test_saved_and_loaded(batch, tmp_path: Path) -> None:
    features, mask, text = batch
    model = small_model(decoder_layers=2, spde="linear")
    save_psftr(model, tmp_path / "model")
    loaded = load_psftr(tmp_path / "model")
    assert loaded.config == model.config
    assert torch.equal(loaded(features, mask, text).logits, model(features, mask, text).logits)
    (tmp_path / "model" / "config.json").write_text('{"width": 32}')
    with pytest.raises(DataError, match="holds no PSFTR model"):
        load_psftr(tmp_path / "model")


def test_a_config_out_of_range_names_its_field() -> None:
    for changes in ({"spde": "mean"}, {"class_loss": "bce"}, {"queries": 0}, {"heads": 3}, {"class_source": "video"}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            small_config(**changes)
