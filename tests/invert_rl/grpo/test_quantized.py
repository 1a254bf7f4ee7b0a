"""Quantized bases: adapters in float32 that learn, or a refusal that says what is missing."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from trl import ModelConfig

from data_prep.errors import DataError
from invert_rl import policy
from invert_rl.policy import load_policy, quantization_of

LORA = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"], "dtype": "bfloat16"}


@pytest.mark.parametrize("option", ["load_in_4bit", "load_in_8bit"])
def test_without_adapters_or_bitsandbytes_it_is_refused(option, monkeypatch):
    with pytest.raises(DataError, match=f"{option}: quantized weights cannot be trained; add --use_peft"):
        quantization_of(ModelConfig(**{option: True}))
    monkeypatch.setattr(policy, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=rf"{option} needs bitsandbytes: pip install -e .\.\[quantization\]"):
        quantization_of(ModelConfig(**{option: True}, **LORA))
    assert quantization_of(ModelConfig(**LORA)) is None


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("option", ["load_in_4bit", "load_in_8bit"])
def test_adapters_on_a_quantized_base_learn(make_trainer, tiny_qwen3, monkeypatch, option):
    loaded = load_policy(tiny_qwen3, ModelConfig(**{option: True}, **LORA))
    trainer = make_trainer(tiny_qwen3, model=loaded.model, peft_config=loaded.peft_config, bf16=True, beta=0.04)
    tower = trainer.model.get_base_model().model.visual
    assert {p.dtype for p in tower.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    moved = [name for name, value in trainer.model.named_parameters() if not torch.equal(before[name], value)]
    assert len(moved) == 8
    assert all("lora_" in name for name in moved)
