"""Each family: its tiny checkpoint, and that a video changes what the model says."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from data_prep.rows import Row
from invert_rl.cli import main
from invert_rl.encoding import batch_inputs
from invert_rl.families import FAMILIES
from invert_rl.models import CheckpointError, family_of, load_model, load_processor, vision_language_model
from invert_rl.models.family import family_named
from tests.invert_rl.grpo.scoring_batches import encode


def test_the_command_writes_what_transformers_loads(tmp_path, capsys):
    for name in FAMILIES:
        folder = tmp_path / name
        assert main(["tiny-model", "--family", name, str(folder), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["family"] == name
        model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        assert model.config.model_type == name and model.dtype == torch.float32
        assert sum(parameter.numel() for parameter in model.parameters()) < 2_500_000
        assert AutoProcessor.from_pretrained(folder).tokenizer.padding_side == "left"
        assert family_of(model) is family_named(name)
        assert type(vision_language_model(model)).__name__ == family_named(name).inner_class


def test_a_folder_with_a_checkpoint_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert main(["tiny-model", "--family", "qwen3_5", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == "{}"


def test_the_same_seed_gives_the_same_weights(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        main(["tiny-model", "--family", "qwen3_5_moe", str(tmp_path / name), "--seed", str(seed)])
    files = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in "abc"}
    assert files["a"] == files["b"] != files["c"]


def test_the_video_counts(family_checkpoint, world, rows: list[Row]):
    model = load_model(family_checkpoint).eval()
    inputs = batch_inputs(encode(family_checkpoint, world, [("tvg", rows[0])]), pad_token_id=0)
    with torch.no_grad():
        seen = model(**inputs).logits[0, -1]
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].flip(0)
        other = model(**inputs).logits[0, -1]
    assert torch.isfinite(seen).all() and (seen - other).abs().max() > 1e-4


def test_another_model_is_refused_by_name(tmp_path, tiny_qwen2_5):
    from transformers import Qwen2Config

    Qwen2Config(hidden_size=32, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="qwen2.*qwen3_5_moe"):
        load_model(str(tmp_path))
    load_processor(tiny_qwen2_5)
