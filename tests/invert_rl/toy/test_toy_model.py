"""Tiny checkpoints: loaded by the Auto classes, right in their tokens, and able to watch a real clip."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.video_utils import VideoMetadata

from data_prep.rows import Row, read_rows
from invert_rl.tasks import DEFAULT_TASKS, get_task, messages
from invert_rl.toy.answers import target_text
from invert_rl.toy.make import make_world
from invert_rl.toy.queries import VERBS, all_bodies
from invert_rl.toy.tiny_model import KINDS, build_config, build_model, save_checkpoint, save_tiny_checkpoint
from invert_rl.toy.tiny_tokenizer import SPECIAL_TOKENS, TAGS, build_tokenizer, toy_texts

CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>What?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
"""What Qwen2.5-VL's own template makes of one video and one question."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {kind: save_tiny_checkpoint(folder / kind, kind=kind, seed=1) for kind in KINDS}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Row, torch.Tensor, VideoMetadata]:
    """A row, its clip at 2 frames per second ``uint8 [24, 3, 56, 56]`` and the frames' metadata."""
    folder = tmp_path_factory.mktemp("world")
    row = read_rows(make_world(folder, 0, 1, 0, 0)["train"])[0]
    with av.open(str(folder / "videos" / row.video)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    indices = list(range(0, 96, 4))
    metadata = VideoMetadata(total_num_frames=96, fps=8.0, duration=12.0, frames_indices=indices)
    return row, torch.from_numpy(frames[indices]).permute(0, 3, 1, 2), metadata


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(toy_texts())


def test_special_tokens_are_single_small_ids_and_tags_are_single_but_not_special(tokenizer):
    for index, token in enumerate(SPECIAL_TOKENS):
        assert tokenizer(token).input_ids == [index]
        assert tokenizer.decode([index], skip_special_tokens=True) == ""
    for tag in TAGS:
        (index,) = tokenizer(tag).input_ids
        assert tokenizer.decode([index], skip_special_tokens=True) == tag
    assert 600 <= len(tokenizer) <= 800


def test_any_text_comes_back(tokenizer, checkpoints):
    texts = ["naïve 日本語 🙂\t\r\n  x", "3.25 to 17.83", "<think>a</think> <answer>1.00 to 2.50</answer>"]
    texts += [bytes(range(256)).decode("latin-1").replace("\xad", "")]
    loaded = AutoTokenizer.from_pretrained(checkpoints["qwen2_5_vl"])
    for text in texts:
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text
        assert loaded(text).input_ids == ids
    assert loaded.padding_side == "left"


def test_digits_and_words_are_single_tokens(tokenizer):
    assert tokenizer.tokenize("12.75") == ["1", "2", ".", "7", "5"]
    for verb in VERBS:
        for text, masked in all_bodies(verb, "chair", "green"):
            assert len(tokenizer(f" {text}").input_ids) == len(text.split())
            assert len(tokenizer(f" {masked}").input_ids) == len(masked.split())
        assert len(tokenizer(f"<answer>{verb}</answer>").input_ids) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_chat_reads_as_qwen_writes_it(checkpoints, kind):
    processor = AutoProcessor.from_pretrained(checkpoints[kind])
    parts = [{"type": "video", "video": "v.mp4"}, {"type": "text", "text": "What?"}]
    chat = [{"role": "user", "content": parts}]
    assert processor.apply_chat_template(chat, add_generation_prompt=True) == CHAT
    # Stored in a table, parts of different types get each other's keys, empty.
    filled = [
        {"type": "video", "video": "v.mp4", "text": None},
        {"type": "text", "video": None, "text": "What?"},
    ]
    table = [{"role": "user", "content": filled}]
    assert processor.apply_chat_template(table, add_generation_prompt=True) == CHAT
    spoken = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    spoken += [{"role": "assistant", "content": [{"type": "text", "text": "Yes"}]}]
    assert processor.apply_chat_template(spoken) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nYes<|im_end|>\n"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_watches_a_real_clip(checkpoints, clip, kind, caplog, monkeypatch):
    row, frames, metadata = clip
    # Its warnings would otherwise bypass pytest.
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        processor = AutoProcessor.from_pretrained(checkpoints[kind])
        model, info = AutoModelForImageTextToText.from_pretrained(checkpoints[kind], output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        assert model.dtype == torch.float32
        text = processor.apply_chat_template(messages(get_task("tvg"), row), add_generation_prompt=True)
        inputs = processor(
            text=[text],
            videos=[frames],
            video_metadata=[metadata],
            do_sample_frames=False,
            return_tensors="pt",
        )
        assert inputs["video_grid_thw"].tolist() == [[12, 4, 4]]
        assert int((inputs["input_ids"] == model.config.video_token_id).sum()) == 48
        if kind == "qwen2_5_vl":
            assert [float(value) for value in inputs["second_per_grid_ts"]] == [1.0]
        with torch.no_grad():
            logits = model(**inputs).logits
            blank = {**inputs, "pixel_values_videos": torch.zeros_like(inputs["pixel_values_videos"])}
            other = model(**blank).logits
        assert logits.shape[-1] == len(processor.tokenizer) and torch.isfinite(logits).all()
        assert (logits - other).abs().max() > 1e-4
        out = model.generate(**inputs, max_new_tokens=6)
        assert inputs["input_ids"].shape[1] < out.shape[1] <= inputs["input_ids"].shape[1] + 6
    messages_logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [message for message in messages_logged if "reference PyTorch implementation" not in message]


def test_default_shape_has_its_size_and_its_facts(checkpoints):
    folder = checkpoints["qwen2_5_vl"]
    assert (folder / "model.safetensors").stat().st_size < 6e6
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F16"}  # noqa: SIM118
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert 1.6e6 < sum(parameter.numel() for parameter in model.parameters()) < 2.0e6
    text = model.config.text_config
    assert text.hidden_size // text.num_attention_heads == 32 and text.num_key_value_heads == 2
    assert sum(text.rope_parameters["mrope_section"]) == 16
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert model.generation_config.eos_token_id == [2, 0] and model.generation_config.pad_token_id == 0


def test_a_trained_model_is_saved_to_generate_with_a_cache(checkpoints, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(checkpoints["qwen2_5_vl"])
    model.config.use_cache = False  # as trainers leave it
    save_checkpoint(model, AutoProcessor.from_pretrained(checkpoints["qwen2_5_vl"]), tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["use_cache"] is True
    assert model.config.use_cache is False


def test_weights_depend_on_the_seed_alone(tokenizer):
    config = build_config(tokenizer, hidden=32, layers=1, vision_blocks=1, vision_hidden=32)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = build_model(config, seed=7).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    second, third = build_model(config, seed=7).state_dict(), build_model(config, seed=8).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


def test_answers_are_short_and_survive_the_tokenizer(tokenizer, clip):
    row = clip[0]
    for task in DEFAULT_TASKS:
        answer = target_text(get_task(task), row, np.random.default_rng(0))
        ids = tokenizer(answer).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == answer
        assert len(ids) <= 84


def test_unknown_kinds_and_odd_widths_are_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="qwen3_vl"):
        save_tiny_checkpoint(tmp_path / "x", kind="qwen9")
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="multiple of 32"):
        build_config(tokenizer, hidden=100)
