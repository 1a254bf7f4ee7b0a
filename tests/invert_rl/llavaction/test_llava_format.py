"""The folder that lmms-eval loads: names and shapes as LLaVA-NeXT's modules have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from data_prep.errors import DataError
from invert_rl.cli import main as command
from invert_rl.llavaction.llava_format import SIGLIP, exported_config, renamed

WIDTH, LAYERS, WORDS = 64, 2, 640


def llava_next_shapes() -> dict[str, tuple[int, ...]]:
    """Weights of `LlavaQwenForCausalLM` with a SigLIP-so400m of 26 layers, from its modules' definitions."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (WORDS, WIDTH), "lm_head.weight": (WORDS, WIDTH)}
    found |= {"model.norm.weight": (WIDTH,), "model.image_newline": (WIDTH,)}
    found |= {"model.mm_projector.0.weight": (WIDTH, 1152), "model.mm_projector.0.bias": (WIDTH,)}
    found |= {"model.mm_projector.2.weight": (WIDTH, WIDTH), "model.mm_projector.2.bias": (WIDTH,)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for name, rows in (("q_proj", 64), ("k_proj", 32), ("v_proj", 32)):
            found[f"{prefix}.self_attn.{name}.weight"] = (rows, WIDTH)
            found[f"{prefix}.self_attn.{name}.bias"] = (rows,)
        found[f"{prefix}.self_attn.o_proj.weight"] = (WIDTH, 64)
        found |= {f"{prefix}.mlp.{name}_proj.weight": (96, WIDTH) for name in ("gate", "up")}
        found[f"{prefix}.mlp.down_proj.weight"] = (WIDTH, 96)
        found |= {f"{prefix}.{name}_layernorm.weight": (WIDTH,) for name in ("input", "post_attention")}
    tower = "model.vision_tower.vision_tower.vision_model"
    found[f"{tower}.embeddings.patch_embedding.weight"] = (1152, 3, 14, 14)
    found[f"{tower}.embeddings.patch_embedding.bias"] = (1152,)
    found[f"{tower}.embeddings.position_embedding.weight"] = (729, 1152)
    found |= {f"{tower}.post_layernorm.{kind}": (1152,) for kind in ("weight", "bias")}
    for layer in range(26):
        prefix = f"{tower}.encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= {f"{prefix}.self_attn.{name}.weight": (1152, 1152), f"{prefix}.self_attn.{name}.bias": (1152,)}
        for name in ("layer_norm1", "layer_norm2"):
            found |= {f"{prefix}.{name}.{kind}": (1152,) for kind in ("weight", "bias")}
        found |= {f"{prefix}.mlp.fc1.weight": (4304, 1152), f"{prefix}.mlp.fc1.bias": (4304,)}
        found |= {f"{prefix}.mlp.fc2.weight": (1152, 4304), f"{prefix}.mlp.fc2.bias": (1152,)}
    return found


def config() -> LlavaOnevisionConfig:
    text = {"model_type": "qwen2", "vocab_size": WORDS, "hidden_size": WIDTH, "intermediate_size": 96}
    text |= {"num_hidden_layers": LAYERS, "num_attention_heads": 2, "num_key_value_heads": 1}
    vision = {"model_type": "siglip_vision_model", **SIGLIP, "intermediate_size": 4304, "num_attention_heads": 16}
    return LlavaOnevisionConfig(text_config=text, vision_config={**vision, "vision_use_head": False})


def test_names_and_shapes_are_those_of_llava_next():
    with init_empty_weights():
        model = LlavaOnevisionForConditionalGeneration(config())
    shapes = {name: tuple(value.shape) for name, value in renamed(model.state_dict(), "m").items()}
    assert shapes == llava_next_shapes()


def test_names_in_files_of_all_versions_are_read():
    """transformers 5 leaves ``vision_model`` out of a file, 4 wrote it; both begin without ``model``."""
    names = ["language_model.model.layers.0.mlp.up_proj.weight", "language_model.lm_head.weight", "image_newline"]
    names += ["vision_tower.vision_model.embeddings.patch_embedding.bias", "vision_tower.encoder.layers.3.mlp.fc1.bias"]
    names += ["multi_modal_projector.linear_2.bias", "vision_tower.head.probe", "action_heads.verb.weight"]
    found = renamed(dict.fromkeys(names), "m")
    assert found.keys() < llava_next_shapes().keys() | {"model.vision_tower.vision_tower.vision_model.encoder.layers.3"}
    assert len(found) == 6
    with pytest.raises(DataError, match=r"m: weight 'model.visual.blocks.0' is none"):
        renamed({"model.visual.blocks.0": None}, "m")


def test_a_folder_is_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = tmp_path / "model"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config().to_dict()))
    (source / "tokenizer.json").write_text("{}")
    save_file({"image_newline": torch.ones(64)}, source / "a.safetensors")
    save_file({"language_model.model.norm.weight": torch.zeros(64)}, source / "b.safetensors")
    assert command(["export-llava", str(source), "--output", str(tmp_path / "out")]) == 0
    assert "--model llava_onevision --model_args pretrained=" in capsys.readouterr().out
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    assert index == {"model.image_newline": "a.safetensors", "model.norm.weight": "b.safetensors"}
    assert load_file(tmp_path / "out" / "a.safetensors")["model.image_newline"].sum() == 64
    made = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (made["architectures"], made["mm_hidden_size"], made["vocab_size"]) == (
        ["LlavaQwenForCausalLM"],
        1152,
        WORDS,
    )
    assert made["unfreeze_mm_vision_tower"] is True  # or the code would load SigLIP's released weights over these
    assert command(["export-llava", str(source), "--output", str(tmp_path / "out")]) == 1
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"), [({"model_type": "qwen3_vl"}, "--model qwen2_5_vl"), ({}, "hidden_size")]
)
def test_other_models_are_refused(change, message):
    plain = config().to_dict()
    plain["vision_config"]["hidden_size"] = 32
    with pytest.raises(DataError, match=message):
        exported_config({**plain, **change}, "m")
