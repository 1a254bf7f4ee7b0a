"""Parameters and operations counted from ``config.json`` alone, against built models, published numbers and PyTorch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText

from invert_rl.grpo.vision import freeze_tower
from invert_rl.models import CheckpointError, load_config, vision_language_model
from invert_rl.plan.memory import layer_bytes, vision_block_bytes
from invert_rl.plan.seconds import language_operations, vision_operations
from invert_rl.plan.sizes import sizes_of

PUBLISHED = {
    "qwen2_5_vl_3b": 3_754_622_976,
    "qwen2_5_vl_7b": 8_292_166_656,
    "qwen3_vl_4b": 4_437_815_808,
    "qwen3_vl_8b": 8_767_123_696,
    "qwen3_vl_30b_a3b": 31_070_754_032,
}
"""Totals that the hub prints for the released weights. (Those of Qwen3.5 count a head for speculation as well.)"""
TARGETS = ["q_proj", "v_proj", "gate_proj"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_released_models_have_the_published_number_of_parameters(released, name):
    sizes = sizes_of(load_config(released(name)))
    assert sizes.parameters == PUBLISHED[name]
    assert sizes.dtype == "bfloat16"


@pytest.mark.parametrize(("name", "billions", "active"), [("qwen3_5_9b", 9.41, 6.92), ("qwen3_5_35b_a3b", 35.1, 2.44)])
def test_hybrid_models_are_counted_too(released, name, billions, active):
    sizes = sizes_of(load_config(released(name)))
    assert sizes.parameters / 1e9 == pytest.approx(billions, rel=1e-3)
    assert sizes.active / 1e9 == pytest.approx(active, rel=1e-2)
    assert sizes.attention_layers == sizes.layers // 4


def test_the_count_is_that_of_the_built_model(family_checkpoint, tmp_path):
    shutil.copy(Path(family_checkpoint) / "config.json", tmp_path)
    sizes = sizes_of(load_config(str(tmp_path)))
    model = AutoModelForImageTextToText.from_pretrained(family_checkpoint)
    assert sizes.parameters == sum(parameter.numel() for parameter in model.parameters())
    inner = vision_language_model(model)
    assert sizes.vision == sum(parameter.numel() for parameter in inner.visual.parameters())
    for freeze in (True, False):
        adapted = get_peft_model(
            AutoModelForImageTextToText.from_pretrained(family_checkpoint), LoraConfig(r=4, target_modules=TARGETS)
        )
        if freeze:
            freeze_tower(adapted)
        trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
        assert sizes.adapters(4, TARGETS, freeze) == trained


def test_counting_takes_no_memory_for_weights(released):
    config = load_config(released("qwen3_5_35b_a3b"))
    before = config.to_dict()
    assert sizes_of(config).parameters > 35e9  # 70 GB, were they there
    assert config.to_dict() == before


def test_operations_are_those_that_pytorch_counts(family_checkpoint):
    """Of the language model, but for what recurrent layers do beside their projections."""
    model = AutoModelForImageTextToText.from_pretrained(family_checkpoint)
    sizes = sizes_of(model.config)
    length = 96
    ids = torch.randint(10, 100, (2, length))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False)
    counted = counter.get_total_flops()
    reckoned = language_operations(sizes, 0, 0, 2, length, copies=False)
    experts = sizes.chosen < 1
    # Attention is counted by PyTorch without its causal half; experts and states in more than one way.
    low, high = (0.6, 1.6) if experts or sizes.attention_layers < sizes.layers else (0.85, 1.02)
    assert low < reckoned / counted < high


def test_operations_of_the_tower_are_those_that_pytorch_counts(family_checkpoint):
    model = AutoModelForImageTextToText.from_pretrained(family_checkpoint)
    sizes, tower = sizes_of(model.config), vision_language_model(model).visual
    grid = torch.tensor([[4, 8, 8]])
    patches = torch.randn(4 * 8 * 8, 3 * 2 * sizes.patch**2)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tower(patches, grid_thw=grid)
    assert 0.8 < vision_operations(sizes, 64, frame=64) / counter.get_total_flops() < 1.2


class Kept:
    """Bytes of the tensors that autograd keeps inside, each memory once, parameters aside."""

    def __init__(self, module: nn.Module) -> None:
        self.known = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        self.bytes = 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in self.known:
            self.known.add(place)
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor


def test_a_layer_keeps_about_what_is_reckoned(tiny_qwen2_5):
    model = AutoModelForImageTextToText.from_pretrained(tiny_qwen2_5).train()
    sizes = sizes_of(model.config)
    layer = vision_language_model(model).language_model.layers[0]
    states = torch.randn(1, 512, sizes.hidden, requires_grad=True)
    positions = torch.zeros(1, 512, sizes.query // model.config.get_text_config().num_attention_heads)
    kept = Kept(layer)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        layer(states, position_embeddings=(positions, positions), attention_mask=None, use_cache=False)
    assert 0.75 < layer_bytes(sizes, 4, 4) * 512 / kept.bytes < 1.33


def test_a_block_of_the_tower_keeps_about_what_is_reckoned(tiny_qwen2_5):
    model = AutoModelForImageTextToText.from_pretrained(tiny_qwen2_5).train()
    sizes, tower = sizes_of(model.config), vision_language_model(model).visual
    grid = torch.tensor([[4, 16, 16]])
    patches = torch.randn(4 * 256, 3 * 2 * sizes.patch**2)
    kept = Kept(model)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        tower(patches, grid_thw=grid)
    measured = kept.bytes / sizes.vision_depth / len(patches)
    assert 0.6 < vision_block_bytes(sizes, 4, 4) / measured < 1.33


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "llama"}, "not one of"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
    ],
)
def test_a_config_of_another_kind_or_shape_is_refused(released, change, said):
    folder = released("qwen2_5_vl_3b")
    path = Path(folder) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises((CheckpointError, ValueError), match=said):
        sizes_of(load_config(folder))
