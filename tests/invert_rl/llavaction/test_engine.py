"""Questions answered by vLLM, for which a stand-in runs the checkpoint by transformers from what vLLM is handed."""

from __future__ import annotations

import argparse
import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from data_prep.errors import DataError
from invert_rl.llavaction.action_token import ACTION_TOKEN
from invert_rl.llavaction.answers.answer import QuestionAnswerer
from invert_rl.llavaction.answers.engine import EngineAnswerer, backend_of, engine_answerer
from invert_rl.llavaction.data import Classes, SampleEncoder
from invert_rl.llavaction.encode import ClipEncoder
from invert_rl.llavaction.model import HEADS_FOLDER, load_action_model, load_action_processor
from invert_rl.llavaction.training import save_whole
from invert_rl.llavaction.views import ViewSettings
from invert_rl.loading import CheckpointError
from invert_rl.positions import use_trained_positions
from tests.invert_rl.llavaction.conftest import CLASSES
from tests.invert_rl.llavaction.test_inference import RandomClips, make_row


class Engine:
    """For `vllm.LLM`: expands the placeholder itself and refuses weights that it does not know, as that does."""

    def __init__(self, model: str, **arguments) -> None:
        assert arguments["limit_mm_per_prompt"]["video"]["count"] == 1 and arguments["max_model_len"] <= 4096
        self.processor = AutoProcessor.from_pretrained(model)
        self.model, info = AutoModelForImageTextToText.from_pretrained(model, output_loading_info=True)
        assert not info["unexpected_keys"], info["unexpected_keys"]
        use_trained_positions(self.model.eval())
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(dtype=torch.float32, max_model_len=4096))
        self.asked: list[list[int]] = []
        Engine.last = self

    def generate(self, prompts, sampling, use_tqdm):
        return [self._one(prompt, one) for prompt, one in zip(prompts, sampling, strict=True)]

    def _one(self, prompt, sampling):
        ids = prompt["prompt_token_ids"]
        self.asked.append(ids)
        frames, metadata = prompt["multi_modal_data"]["video"][0]
        inputs = self.processor.video_processor(
            [torch.from_numpy(frames)], do_sample_frames=False, do_resize=False, return_tensors="pt"
        )
        count = int(inputs["video_grid_thw"].prod()) // 4
        pad = self.processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")
        place = ids.index(pad)
        full = [*ids[:place], *[pad] * count, *ids[place + 1 :]]
        apart = metadata["frames_indices"][1] - metadata["frames_indices"][0]
        output = self.model.generate(
            input_ids=torch.tensor([full]),
            attention_mask=torch.ones(1, len(full), dtype=torch.long),
            mm_token_type_ids=torch.tensor([[2 * (token == pad) for token in full]]),
            pixel_values_videos=inputs["pixel_values_videos"],
            video_grid_thw=inputs["video_grid_thw"],
            second_per_grid_ts=torch.tensor([2 * apart / metadata["fps"]]),
            max_new_tokens=sampling.max_tokens,
            do_sample=False,
            suppress_tokens=sorted(sampling.logit_bias),
        )
        return SimpleNamespace(
            prompt_token_ids=full, outputs=[SimpleNamespace(token_ids=output[0, len(full) :].tolist())]
        )


@pytest.fixture
def trained(tiny_qwen2_5, tmp_path):
    """A model folder as a run leaves it."""
    processor = load_action_processor(tiny_qwen2_5)
    model = load_action_model(tiny_qwen2_5, processor, CLASSES, seed=4)
    with torch.no_grad():  # what is said depends on the clip, and leaving out the token would be seen
        for weight in model.parameters():
            weight.mul_(4.0 if weight.ndim > 1 else 1.0)
        model.get_input_embeddings().weight[processor.tokenizer.convert_tokens_to_ids(ACTION_TOKEN)] *= 8
    save_whole(model, tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


def encoder_of(folder, **settings) -> SampleEncoder:
    processor = load_action_processor(str(folder))
    config = load_action_model(str(folder), processor, CLASSES).config
    encoder = ClipEncoder(processor, config, **settings)
    return SampleEncoder(encoder, RandomClips(), ViewSettings("none", False), Classes(6, 7, ["0:0"]))


def test_an_engine_answers_what_the_model_answers(trained, monkeypatch):
    importlib.import_module("invert_rl.grpo.vllm_rollout")  # TRL looks for the real vLLM when it is imported
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=Engine, SamplingParams=SimpleNamespace))
    monkeypatch.delitem(sys.modules, "invert_rl.evaluation.vllm_backend", raising=False)
    encode = encoder_of(trained)
    model = load_action_model(str(trained), encode.encoder.processor, CLASSES).eval()
    rows = [*(make_row(number) for number in range(4)), make_row(9, video="missing.mp4")]
    expected = QuestionAnswerer(model, encode, batch_size=3, max_new_tokens=6)(rows)
    args = argparse.Namespace(model=str(trained), max_new_tokens=6, dtype="auto")
    ask, dtype = engine_answerer(args, encode, batch_size=3)
    assert dtype == "float32"
    assert ask(rows) == expected
    assert expected["r9"].status == "missing_video"
    assert len({answer.text for answer in expected.values()}) > 2
    token = encode.encoder.token_id
    assert [ids.count(token) for ids in Engine.last.asked] == [1] * 4
    without = EngineAnswerer(ask.complete, encoder_of(trained, action_token=False), 3)(rows)
    assert without != expected
    sys.modules.pop("invert_rl.evaluation.vllm_backend")


def test_a_model_folder_holds_nothing_that_an_engine_would_refuse(trained):
    names = {name for path in trained.glob("*.safetensors") for name in load_file(path)}
    assert names and not [name for name in names if "action_heads" in name]
    heads = load_file(trained / HEADS_FOLDER / "heads.safetensors")
    assert {name: tuple(value.shape)[0] for name, value in heads.items()} == {
        "action_heads.verb.weight": 6,
        "action_heads.noun.weight": 7,
        "action_heads.action.weight": 20,
    }
    again = load_action_model(str(trained), load_action_processor(str(trained)), CLASSES, seed=77)
    assert all(torch.equal(again.get_parameter(name), value) for name, value in heads.items())


def test_what_an_engine_cannot_do_is_refused_or_left_to_transformers(tiny_qwen2_5, tiny_llava, load):
    state = PartialState(cpu=True)
    encode = {name: SimpleNamespace(encoder=load(name)[1]) for name in (tiny_qwen2_5, tiny_llava)}

    def chosen(backend, model=tiny_qwen2_5, likeliest=False, appending=None):
        return backend_of(
            argparse.Namespace(model=model, backend=backend, likeliest=likeliest, appending=appending),
            encode[model],
            state,
        )

    assert chosen("auto") == chosen("transformers") == chosen("auto", likeliest=True) == "transformers"
    for options, message in (
        ({"likeliest": True}, "--likeliest"),
        ({"appending": 3}, "--appending"),
        ({"model": tiny_llava}, "LLaVA-OneVision"),
        ({}, "vLLM is not installed"),
    ):
        with pytest.raises(DataError, match=message):
            chosen("vllm", **options)


def test_zero_3_is_refused_without_the_token_and_taken_with_it(tiny_qwen2_5, trained, monkeypatch):
    """DeepSpeed shards embeddings as they are loaded; a model folder of a run has the token already."""
    processor = load_action_processor(tiny_qwen2_5)
    monkeypatch.setattr("invert_rl.llavaction.model.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(CheckpointError, match="has no action token yet, and DeepSpeed ZeRO-3 shards .* FSDP2"):
        load_action_model(tiny_qwen2_5, processor, CLASSES)
    assert load_action_model(str(trained), processor, CLASSES).config.action_token["classes"] == CLASSES
