"""vLLM rollouts against a stand-in engine: a transformers model behind the part of vLLM's interface that is used.

The stand-in expands prompts, processes videos and samples by itself, and takes weights by name. It cannot show how the
real engine computes: `invert-rl parity` in the lab shows that (docs/parity.md).
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections.abc import Iterable
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerControl, TrainerState
from trl.generation import vllm_generation as trl_vllm

from data_prep.rows import read_rows
from invert_rl.evaluation.runs.greedy import answer_rows
from invert_rl.evaluation.runs.validation import Validation
from invert_rl.grpo import rollout_trainer
from invert_rl.grpo.vllm_prompts import content_key, vllm_prompt
from invert_rl.grpo.vllm_rollout import (
    BAN,
    DIFFERENCE,
    EngineMismatchError,
    SamplingAlarm,
    generate_with_vllm,
)
from invert_rl.grpo.vllm_weights import block_of, plain_name
from invert_rl.models import load_model, load_processor, never_sampled_ids
from invert_rl.parity.change import WeightChange
from invert_rl.tasks.presets import load_preset
from tests.invert_rl.grpo.test_scoring import encode

AGREE = 0.02
"""Largest difference of log-probabilities: a random model gives the banned tokens about a hundredth."""


class StandInEngine:
    """What the rollouts use of `vllm.LLM`."""

    def __init__(self, model: str, **arguments: Any) -> None:
        self.arguments = arguments
        self.model = load_model(model)
        self.processor = load_processor(model)
        self.video_token = self.processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")
        self.generator = torch.Generator().manual_seed(0)
        self.calls: list[str] = []
        self.loaded: list[list[str]] = []
        self.requests: list[tuple[dict[str, Any], SimpleNamespace]] = []
        self.caches_of_old_weights: set[str] = set()
        self.frame_step = 1
        runner = SimpleNamespace(model=SimpleNamespace(load_weights=self.load_weights))
        self.llm_engine = SimpleNamespace(
            model_executor=SimpleNamespace(driver_worker=SimpleNamespace(model_runner=runner)),
            reset_encoder_cache=lambda: self.caches_of_old_weights.discard("encoder"),
        )

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        own = dict(self.model.named_parameters())
        self.loaded.append([])
        for name, value in weights:
            own[name].data.copy_(value)
            self.loaded[-1].append(name)
        self.caches_of_old_weights = {"encoder", "prefix"}
        self.calls.append("load")

    def reset_prefix_cache(self) -> None:
        self.caches_of_old_weights.discard("prefix")

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(f"wake {' '.join(tags)}")

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")

    def generate(
        self, prompts: list[dict[str, Any]], sampling_params: list[SimpleNamespace], use_tqdm: bool
    ) -> list[SimpleNamespace]:
        assert not self.caches_of_old_weights
        self.calls.append("generate")
        self.requests += zip(prompts, sampling_params, strict=True)
        return [self.answer(prompt, params) for prompt, params in zip(prompts, sampling_params, strict=True)]

    @torch.no_grad()
    def answer(self, prompt: dict[str, Any], params: SimpleNamespace) -> SimpleNamespace:
        assert prompt["prompt_token_ids"].count(self.video_token) == 1
        assert len(prompt["multi_modal_uuids"]["video"]) == 1
        ((frames, metadata),) = prompt["multi_modal_data"]["video"]
        assert metadata["do_sample_frames"] is False
        inputs = self.processor(
            text=[self.processor.tokenizer.decode(prompt["prompt_token_ids"], clean_up_tokenization_spaces=False)],
            videos=[torch.from_numpy(frames[:: self.frame_step])],
            video_metadata=[{name: value for name, value in metadata.items() if name != "do_sample_frames"}],
            return_tensors="pt",
            return_mm_token_type_ids=True,
            **prompt["mm_processor_kwargs"],
        )
        ids = inputs.pop("input_ids")
        return SimpleNamespace(
            prompt_token_ids=ids[0].tolist(), outputs=[self.sample(ids, inputs, params) for _ in range(params.n)]
        )

    def sample(self, ids: torch.Tensor, inputs: dict[str, torch.Tensor], params: SimpleNamespace) -> SimpleNamespace:
        types = inputs["mm_token_type_ids"]
        video = {name: value for name, value in inputs.items() if name not in ("attention_mask", "mm_token_type_ids")}
        tokens: list[int] = []
        logprobs: list[dict[int, SimpleNamespace]] = []
        while len(tokens) < params.max_tokens and not set(tokens) & set(params.stop_token_ids):
            row = torch.cat([ids, torch.tensor([tokens], dtype=torch.long)], dim=1)
            kinds = torch.nn.functional.pad(types, (0, len(tokens)))
            logits = self.model(input_ids=row, mm_token_type_ids=kinds, **video).logits[0, -1].float()
            for token, bias in params.logit_bias.items():
                logits[token] += bias
            if getattr(params, "allowed_token_ids", None):
                logits = torch.full_like(logits, -math.inf).index_copy(
                    0, torch.tensor(params.allowed_token_ids), logits[params.allowed_token_ids]
                )
            logits = logits / (params.temperature or 1e-6)
            scores = logits.log_softmax(dim=0)
            tokens.append(int(torch.multinomial(scores.exp(), 1, generator=self.generator)))
            logprobs.append({tokens[-1]: SimpleNamespace(logprob=scores[tokens[-1]].item())})
        return SimpleNamespace(token_ids=tokens, logprobs=logprobs)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL finds the stand-in where it looks for vLLM."""
    monkeypatch.setattr(trl_vllm, "is_vllm_available", lambda: True)
    monkeypatch.setattr(trl_vllm, "LLM", StandInEngine, raising=False)
    monkeypatch.setattr(trl_vllm, "SamplingParams", SimpleNamespace, raising=False)


@pytest.fixture
def make_vllm_trainer(make_trainer):
    """A trainer with the stand-in engine, at ``trainer.vllm_generation.llm``."""

    def build(checkpoint: str, **overrides: Any):
        environment = dict(os.environ)  # TRL leaves the variables of a distributed run in it
        try:
            return make_trainer(checkpoint, use_vllm=True, **overrides)
        finally:
            os.environ.clear()
            os.environ.update(environment)

    return build


def differences(trainer) -> list[float]:
    """Largest difference of log-probabilities in each training step, as TRL logs it."""
    name = "sampling/sampling_logp_difference/max"
    return [log[name] for log in trainer.state.log_history if name in log]


def test_each_prompt_is_sent_once_with_its_video(make_vllm_trainer, tiny_checkpoint):
    trainer = make_vllm_trainer(
        tiny_checkpoint, per_device_train_batch_size=8, max_steps=1, temperature=0.9, tasks=["tvg"], min_p=None
    )
    engine = trainer.vllm_generation.llm
    limits = engine.arguments["limit_mm_per_prompt"]
    assert limits["image"] == 0 and limits["video"]["count"] == 1
    assert engine.arguments["max_model_len"] <= trainer.model.config.get_text_config().max_position_embeddings
    assert engine.arguments["dtype"] == "float32"
    assert engine.arguments["logprobs_mode"] == "processed_logprobs"
    trainer.train()
    assert engine.calls == ["load", "generate"]
    assert [params.n for _, params in engine.requests] == [4, 4]
    assert engine.requests[0][0]["prompt_token_ids"] != engine.requests[1][0]["prompt_token_ids"]
    for prompt, params in engine.requests:
        ((frames, metadata),) = prompt["multi_modal_data"]["video"]
        assert frames.dtype == "uint8"
        assert frames.shape[1] == 3
        assert len(metadata["frames_indices"]) == len(frames)
        assert params.logit_bias == dict.fromkeys(never_sampled_ids(trainer.processing_class), BAN)
        assert params.temperature == 0.9
        assert params.min_p == 0.0
        assert params.stop_token_ids == trainer.eos_token_ids
        assert not hasattr(params, "suppress_tokens")


@pytest.mark.parametrize("lora", [False, True])
def test_engine_follows_the_weights(make_vllm_trainer, tiny_checkpoint, lora):
    adapters = {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"])} if lora else {}
    trainer = make_vllm_trainer(tiny_checkpoint, max_steps=3, learning_rate=3e-2, **adapters)
    trainer.train()
    assert trainer.vllm_generation.llm.calls == ["load", "generate"] * 3
    steps = differences(trainer)
    assert len(steps) == 3
    assert max(steps) <= AGREE


def test_engine_left_behind_is_seen(make_vllm_trainer, tiny_qwen2_5, monkeypatch, caplog):
    """The negative control of the test above, and the alarm."""
    monkeypatch.setattr(rollout_trainer, "push_weights", lambda generation: None)
    trainer = make_vllm_trainer(tiny_qwen2_5, max_steps=3, learning_rate=3e-2)
    with caplog.at_level(logging.WARNING, logger="invert_rl.grpo.vllm_rollout"):
        trainer.train()
    steps = differences(trainer)
    assert steps[0] <= AGREE
    assert steps[2] > 5 * AGREE
    assert "step 3: vLLM and the trainer differ" in caplog.text


@pytest.mark.parametrize(("settings", "stops"), [({}, True), ({"top_p": 0.999}, False)])
def test_a_run_stops_in_the_first_round_where_engine_and_trainer_differ(
    make_vllm_trainer, tiny_qwen2_5, monkeypatch, settings, stops, caplog
):
    """As if the engine were another model; with top_p the numbers are others anyway, and only a warning is given."""
    monkeypatch.setattr(rollout_trainer, "push_weights", lambda generation: None)
    trainer = make_vllm_trainer(tiny_qwen2_5, max_steps=1, **settings)
    WeightChange(trainer.vllm_generation.llm.model).apply(text=1.0)
    if not stops:
        with caplog.at_level(logging.WARNING, logger="invert_rl.grpo.vllm_rollout"):
            trainer.train()
        assert "step 1: vLLM and the trainer differ" in caplog.text
        return
    with pytest.raises(
        EngineMismatchError, match=r"first round .* differ by 0\.\d+.*more than 0\.05.*invert-rl parity"
    ):
        trainer.train()


LORA = LoraConfig(r=4, target_modules=r".*layers\.1\.self_attn\.q_proj")


@pytest.mark.parametrize(
    ("settings", "again"),
    [
        ({"freeze_vision": True}, lambda name: "visual" not in name),
        ({"peft_config": LORA}, lambda name: ".layers.1." in name),  # fused projections travel whole
        ({}, lambda name: True),
        ({"freeze_vision": True, "vllm_enable_sleep_mode": True}, lambda name: True),  # sleep discards all
    ],
)
def test_one_call_a_round_and_what_is_frozen_only_once(make_vllm_trainer, tiny_qwen2_5, settings, again):
    trainer = make_vllm_trainer(tiny_qwen2_5, max_steps=3, learning_rate=3e-2, **settings)
    trainer.train()
    engine = trainer.vllm_generation.llm
    names = {name for name, _ in engine.model.named_parameters()}
    expected = {name for name in names if again(name)}
    assert [set(loaded) for loaded in engine.loaded] == [names, expected, expected]
    assert engine.calls.count("load") == 3 and all(len(set(loaded)) == len(loaded) for loaded in engine.loaded)
    assert max(differences(trainer)) <= AGREE


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("model.visual.blocks.3.attn.qkv.weight", "model.visual.blocks.3"),
        ("base_model.model.model.language_model.layers.10.mlp.up_proj.lora_A.default.weight", "layers.10"),
        ("base_model.model.model.language_model.layers.10.mlp.up_proj.base_layer.weight", "layers.10"),
        ("_fsdp_wrapped_module.model.language_model.layers.1._checkpoint_wrapped_module.mlp.weight", "layers.1"),
        ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head"),
        ("base_model.model.model.language_model.embed_tokens.lora_embedding_B.default", "embed_tokens"),
        ("model.visual.pos_embed.weight", "model.visual.pos_embed"),
        ("model.language_model.layers.0.linear_attn.A_log", "layers.0"),
    ],
)
def test_blocks_by_name(name, block):
    found = block_of(plain_name(name))
    assert found.endswith(block) and found.startswith(("model.", "lm_head"))


def test_one_rollout_for_several_optimizer_steps_keeps_the_weights(make_vllm_trainer, tiny_qwen2_5):
    trainer = make_vllm_trainer(
        tiny_qwen2_5, gradient_accumulation_steps=2, steps_per_generation=2, num_iterations=2, max_steps=4
    )
    trainer.train()
    assert trainer.vllm_generation.llm.calls == ["load", "generate"] * 2


def test_sleep_between_rollouts(make_vllm_trainer, tiny_qwen2_5):
    trainer = make_vllm_trainer(tiny_qwen2_5, vllm_enable_sleep_mode=True, max_steps=2)
    trainer.train()
    turn = ["wake weights", "load", "wake kv_cache", "generate", "sleep 2"]
    assert trainer.vllm_generation.llm.calls == ["sleep 2", *turn, *turn]


def test_sleeping_engine_gets_its_weights_again_within_a_step(make_vllm_trainer, tiny_qwen2_5, world, rows):
    trainer = make_vllm_trainer(tiny_qwen2_5, vllm_enable_sleep_mode=True)
    (prompt,) = encode(tiny_qwen2_5, world, [("tvg", rows[0])])
    for _ in range(2):
        generate_with_vllm(trainer.vllm_generation, [prompt], [0], trainer.banned_ids, trainer.eos_token_ids)
    turn = ["wake weights", "load", "wake kv_cache", "generate", "sleep 2"]
    assert trainer.vllm_generation.llm.calls == ["sleep 2", *turn, *turn]


def test_completions_come_back_in_the_order_asked_for(make_vllm_trainer, tiny_qwen2_5, world, rows, monkeypatch):
    trainer = make_vllm_trainer(tiny_qwen2_5)
    prompts = encode(tiny_qwen2_5, world, [("tvg", rows[0]), ("vc", rows[4]), ("ar", rows[2])])
    engine = trainer.vllm_generation.llm
    answers: list[list[list[int]]] = []
    answer = engine.answer

    def remember(prompt, params):
        output = answer(prompt, params)
        answers.append([completion.token_ids for completion in output.outputs])
        return output

    monkeypatch.setattr(engine, "answer", remember)
    index = [2, 0, 2, 1, 0]
    completions, logps = generate_with_vllm(
        trainer.vllm_generation, prompts, index, trainer.banned_ids, trainer.eos_token_ids
    )
    assert completions == [answers[2][0], answers[0][0], answers[2][1], answers[1][0], answers[0][1]]
    assert [len(row) for row in logps] == [len(row) for row in completions]
    assert all(value < 0 for row in logps for value in row)


def test_tensor_parallel_ranks_run_all_prompts_and_keep_their_own(
    make_vllm_trainer, tiny_qwen2_5, world, rows, monkeypatch
):
    trainer = make_vllm_trainer(tiny_qwen2_5)
    theirs, ours = encode(tiny_qwen2_5, world, [("tvg", rows[0]), ("ar", rows[2])])
    generation = trainer.vllm_generation
    generation.tensor_parallel_size, generation.tp_group = 2, None

    def gather(gathered, requests, group):
        gathered[:] = [[(vllm_prompt(theirs), {**requests[0][1], "n": 3})], requests]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group: 1)
    completions, _ = generate_with_vllm(generation, [ours], [0, 0], trainer.banned_ids, trainer.eos_token_ids)
    assert [params.n for _, params in generation.llm.requests] == [3, 2]
    assert len(completions) == 2


def test_another_expansion_of_the_video_is_an_error(make_vllm_trainer, tiny_checkpoint, world, rows):
    """As if the engine took every other frame: silent misalignment without the check."""
    trainer = make_vllm_trainer(tiny_checkpoint)
    trainer.vllm_generation.llm.frame_step = 2
    (prompt,) = encode(tiny_checkpoint, world, [("tvg", rows[0])])
    with pytest.raises(EngineMismatchError, match=rf"{rows[0].video}.*{len(prompt.input_ids)}.*token \d+"):
        generate_with_vllm(trainer.vllm_generation, [prompt], [0], trainer.banned_ids, trainer.eos_token_ids)


def test_keys_tell_clips_apart(tiny_qwen2_5, world, rows):
    whole, part, again = encode(tiny_qwen2_5, world, [("tvg", rows[0]), ("ar", rows[0]), ("tvg", rows[0])])
    clip = whole.clip
    others = [
        part.clip,
        dataclasses.replace(clip, path="other.mp4"),
        dataclasses.replace(clip, frames=clip.frames[..., :28]),
        dataclasses.replace(clip, timestamps=clip.timestamps + 0.25),
        dataclasses.replace(clip, end=clip.end + 1),
    ]
    assert len({content_key(other) for other in (clip, *others)}) == 6
    assert content_key(clip) == content_key(again.clip)


def test_unexpanded_ids_hold_one_placeholder(tiny_checkpoint, world, rows):
    (prompt,) = encode(tiny_checkpoint, world, [("tvg", rows[0])])
    processor = load_processor(tiny_checkpoint)
    video = processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert prompt.unexpanded_ids.count(video) == 1
    assert prompt.input_ids.count(video) > 1
    text = [token for token in prompt.unexpanded_ids if token != video]
    kept = iter(prompt.input_ids)
    assert all(token in kept for token in text)  # in this order: expansion adds tokens and takes none away


def test_settings_with_which_engine_and_trainer_differ_are_refused(make_trainer, tiny_qwen2_5):
    for mode in ("colocate", "server"):
        with pytest.raises(ValueError, match="trained_positions: false"):
            make_trainer(tiny_qwen2_5, use_vllm=True, vllm_mode=mode, trained_positions=False)


def test_engine_computes_as_the_trainer_does(make_vllm_trainer, tiny_qwen2_5):
    trainer = make_vllm_trainer(tiny_qwen2_5, bf16=True)
    assert trainer.vllm_generation.llm.arguments["dtype"] == "bfloat16"


def test_qwen3_has_only_one_position_rule(make_vllm_trainer, tiny_qwen3):
    assert make_vllm_trainer(tiny_qwen3, trained_positions=False).use_vllm


@pytest.mark.parametrize(
    ("logs", "warns"),
    [({DIFFERENCE: 0.051}, True), ({DIFFERENCE: math.nan}, True), ({DIFFERENCE: 0.049}, False), ({"loss": 1.0}, False)],
)
def test_alarm(logs, warns, caplog):
    with caplog.at_level(logging.WARNING, logger="invert_rl.grpo.vllm_rollout"):
        SamplingAlarm().on_log(None, TrainerState(global_step=7), TrainerControl(), logs=logs)
    assert ("step 7" in caplog.text) == warns


def test_validation_is_by_the_engine_greedily_and_with_the_weights_of_the_step(make_vllm_trainer, tiny_qwen2_5, world):
    """The same answers as transformers gives, nothing of the run's sampling, and no weights sent twice."""
    sampled = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.3, "max_completion_length": 5}
    trainer = make_vllm_trainer(tiny_qwen2_5, max_steps=2, eval_strategy="steps", eval_steps=1, **sampled)
    test_rows, preset = read_rows(world / "test.jsonl"), load_preset("think", ("tvg",)).only(("tvg",))
    trainer.validation = Validation(test_rows, preset, {})
    trainer.train()
    engine = trainer.vllm_generation.llm
    assert [call for call, _ in groupby(engine.calls)] == ["load", "generate"] * 3
    greedy = [params for _, params in engine.requests if params.temperature == 0.0]
    assert len(greedy) == 2 * len(test_rows)
    assert {(p.n, p.top_p, p.repetition_penalty, p.max_tokens) for p in greedy} == {(1, 1.0, 1.0, 5)}
    by_engine = answer_rows(trainer, test_rows, preset, {})
    trainer.use_vllm = False
    assert [answer.text for answer in by_engine] == [a.text for a in answer_rows(trainer, test_rows, preset, {})]
