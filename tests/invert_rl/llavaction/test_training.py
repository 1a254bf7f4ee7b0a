"""Steps of the trainer: what is trained at which rate, exact resume, ranks, rows that take the place of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from data_prep.rows import Row, read_rows
from invert_rl.llavaction.config import LLaVActionConfig
from invert_rl.llavaction.data import Batches, Classes, SampleEncoder, SegmentStore
from invert_rl.llavaction.encode import ClipEncoder
from invert_rl.llavaction.mixture import Mixture
from invert_rl.llavaction.model import load_action_model, load_action_processor
from invert_rl.llavaction.questions.mqa import QuestionBuilder, question_row
from invert_rl.llavaction.questions.priors import prior_segments
from invert_rl.llavaction.questions.specialist import RandomClasses
from invert_rl.llavaction.segments import ClassMap
from invert_rl.llavaction.training import is_vision, make_trainer, parameter_groups, save_for_inference, with_lora
from invert_rl.llavaction.views import ViewSettings
from invert_rl.video.settings import FrameSettings
from tests.invert_rl.llavaction.conftest import make_clip
from tests.invert_rl.llavaction.toy_actions import NOUN_NAMES, VERB_NAMES, toy_segment

FRAMES = {"fps": 4.0, "min_frames": 4, "max_frames": 4, "min_pixels": 56 * 56}


@pytest.fixture(scope="session")
def questions(world: Path) -> tuple[list[Row], ClassMap]:
    """Questions about the small toy world's clips, with the actions before where there are any, and its classes."""
    rows = {row.id: row for row in read_rows(world / "train.jsonl")}
    segments = [toy_segment(row) for row in rows.values()]
    classes = ClassMap(segments, dict(enumerate(VERB_NAMES)), dict(enumerate(NOUN_NAMES)))
    priors = prior_segments(segments)
    asked = [
        question_row(
            question,
            question.segment.narration,
            rows[question.segment.id].duration,
            rows[question.segment.id].video,
            priors=[(prior, prior.narration) for prior in priors.get(question.segment.id, ())],
        )
        for question in QuestionBuilder(classes, RandomClasses(classes, 0)).questions(segments)
    ]
    assert any("priors" in row.meta for row in asked)
    return asked, classes


@pytest.fixture
def make(world: Path, questions, tmp_path: Path) -> Callable:
    """``make(checkpoint, rows=…, lora=…, **settings)``: a trainer on the toy questions."""

    def build(
        checkpoint: str, output: str = "run", rows: list[Row] | None = None, lora: bool = False, dtype=None, **settings
    ):
        given, classes = questions
        rows = given if rows is None else rows
        args = LLaVActionConfig(
            output_dir=str(tmp_path / output),
            **{"max_steps": 4, "per_device_train_batch_size": 3, "learning_rate": 1e-3, "use_cpu": True}
            | {"save_strategy": "no", "logging_steps": 1, "seed": 3, "answer_format": "letter"}
            | settings,
        )
        loading = {} if dtype is None else {"dtype": dtype}
        processor = load_action_processor(checkpoint)
        known = Classes(classes.verbs, classes.nouns, [f"{a}:{b}" for a, b in classes.actions])
        model = load_action_model(checkpoint, processor, known.sizes, args.head_weights, seed=args.seed, **loading)
        model = with_lora(
            model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM") if lora else None
        )
        encoder = ClipEncoder(processor, model.config, args.action_token, args.max_length)
        patch = getattr(processor.video_processor, "patch_size", 14)
        store = SegmentStore(str(world / "videos"), FrameSettings(**FRAMES, image_patch_size=patch))
        encode = SampleEncoder(encoder, store, args.views(), known)
        mixture = Mixture({"mqa": rows, "temporal": rows, "direct": rows}, args.mixture(), args.seed)
        parts = args.world_size * args.gradient_accumulation_steps
        trainer = make_trainer(
            model, Batches(mixture, encode, args.per_device_train_batch_size, parts), args, args.vision_learning_rate
        )
        return trainer

    return build


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def changed(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def test_two_steps_of_each_family_train_everything(make, checkpoint):
    trainer = make(checkpoint, max_steps=2)
    before = weights(trainer)
    trainer.train()
    names = changed(before, weights(trainer))
    for part in ("action_heads.verb", "action_heads.noun", "action_heads.action", "embed_tokens", "layers.0.mlp"):
        assert any(part in name for name in names), part
    assert any(is_vision(name) for name in names)
    logged = [log for log in trainer.state.log_history if "answer_loss" in log]
    assert len(logged) == 2
    assert {"verb_loss", "noun_loss", "action_loss", "loss"} <= logged[0].keys()
    assert logged[1]["verb_loss"] > 0


def test_small_steps_from_a_checkpoint_in_bfloat16_move_nearly_all_weights(make, tiny_qwen2_5):
    trainer = make(tiny_qwen2_5, dtype=torch.bfloat16, learning_rate=1e-6, bf16=True, max_steps=2)
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    moved = sum((after[name] != before[name]).sum().item() for name in before)
    assert moved > 0.9 * sum(value.numel() for value in before.values())
    moments = [value for state in trainer.optimizer.state.values() for value in state.values() if value.ndim]
    assert {value.dtype for value in (*after.values(), *moments)} == {torch.float32}


def test_lora_trains_adapters_token_and_heads_and_is_merged(make, tiny_qwen2_5, tmp_path):
    trainer = make(tiny_qwen2_5, lora=True, max_steps=3, save_strategy="steps", save_steps=3)
    before = weights(trainer)
    trainer.train()
    names = changed(before, weights(trainer))
    assert all("lora_" in name or "action_heads" in name or "token_adapter" in name for name in names), names
    assert any("action_heads" in name for name in names)
    assert any("token_adapter" in name for name in names)
    encode = trainer.train_dataset.draw.encode
    batch = encode.encoder.batch([encode.encoder("A. sit down", make_clip())], labels=False)
    with torch.no_grad():
        expected = trainer.model.eval()(**batch).logits
    classes = Classes(6, 7, ["0:0"])
    save_for_inference(trainer, encode.encoder.processor, tmp_path / "model", classes, lambda: trainer.model)
    assert Classes.read(tmp_path / "model" / "classes.json").sizes == classes.sizes
    processor = load_action_processor(str(tmp_path / "model"))
    loaded = load_action_model(str(tmp_path / "model"), processor, trainer.model.config.action_token["classes"]).eval()
    with torch.no_grad():
        assert torch.allclose(loaded(**batch).logits, expected, atol=1e-4)
    heads = [value for name, value in trainer.model.named_parameters() if "action_heads" in name and "verb" in name]
    assert any(torch.allclose(loaded.action_heads.verb.weight, head, atol=1e-6) for head in heads)


@pytest.mark.parametrize("lora", [False, True])
def test_resume_is_exact(make, tiny_qwen2_5, tmp_path, lora):
    settings = {"lora": lora, "save_strategy": "steps", "save_steps": 2, "prior_probability": 0.5}
    straight = make(tiny_qwen2_5, "straight", **settings)
    straight.train()
    resumed = make(tiny_qwen2_5, "resumed", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    assert changed(weights(straight), weights(resumed)) == []
    assert resumed.state.global_step == 4


def test_it_learns_what_it_is_taught(make, tiny_qwen2_5):
    trainer = make(tiny_qwen2_5, max_steps=25, learning_rate=3e-3, per_device_train_batch_size=4)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "answer_loss" in log]
    for name in ("answer_loss", "noun_loss"):
        losses = [log[name] for log in logs]
        assert sum(losses[-5:]) < 0.8 * sum(losses[:5]), name


def test_gradient_checkpointing_trains_the_same(make, checkpoint):
    ends = []
    for name, value in (("plain", False), ("checkpointed", True)):
        trainer = make(checkpoint, name, gradient_checkpointing=value, optim="sgd", max_steps=2, learning_rate=0.05)
        trainer.train()
        ends.append(weights(trainer))
    assert max((ends[0][name] - ends[1][name]).abs().max().item() for name in ends[0]) < 1e-5


def test_without_the_action_token_there_are_no_head_losses(make, tiny_qwen2_5):
    trainer = make(tiny_qwen2_5, action_token=False, max_steps=1)
    before = weights(trainer)
    trainer.train()
    assert not [name for name in changed(before, weights(trainer)) if "action_heads" in name]
    assert "verb_loss" not in trainer.state.log_history[0]


def test_the_vision_encoder_has_a_rate_of_its_own(checkpoint, load):
    model, _ = load(checkpoint)
    groups = parameter_groups(model, 1e-5, 2e-6, 0.1)
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert len(rate) == len(list(model.parameters()))
    slow = {name for name, parameter in model.named_parameters() if rate[id(parameter)] == 2e-6}
    assert slow
    assert all(("visual" in name or "vision_tower" in name) and "merger" not in name for name in slow)
    fast = {name for name, _ in model.named_parameters()} - slow
    assert any("merger" in name or "projector" in name for name in fast)
    assert any("action_heads" in name for name in fast)
    for name, parameter in model.named_parameters():
        plain = name.endswith("bias") or "norm" in name.split(".")[-2]
        assert (decay[id(parameter)] == 0.0) == plain, name


def test_rows_that_cannot_be_used_make_way(make, tiny_qwen2_5, questions):
    from dataclasses import replace

    rows = questions[0]
    trainer = make(tiny_qwen2_5, rows=[replace(rows[0], id="lost", video="lost.mp4"), *rows[1:3]], max_steps=3)
    trainer.train()
    batches = trainer.train_dataset.draw
    assert set(batches.left_out.videos.values()) >= {"no such file"}
    assert all(name.startswith("lost.mp4") for name in batches.left_out.videos)
    short = make(tiny_qwen2_5, "short", max_length=60)
    with pytest.raises(ValueError, match="no usable row after 100 replacements"):
        short.train()


def test_batches_are_a_function_of_step_and_part(make, tiny_qwen2_5):
    """Two parts of a step are the two halves of a twice as large one, in the order of their rows."""
    one, two = make(tiny_qwen2_5, "a").train_dataset.draw, make(tiny_qwen2_5, "b").train_dataset.draw
    two.size, two.parts = 6, 1
    one.parts = 2
    encode = one.encode.encoder
    for step in (0, 3):
        items = [one._item(place) for place in range(6 * step, 6 * step + 6)]
        whole = encode.batch(items)
        assert torch.equal(two(step, 0)["input_ids"], whole["input_ids"])
        assert torch.equal(one(step, 1)["input_ids"], encode.batch(items[3:])["input_ids"])


def test_settings_of_view_type():
    assert LLaVActionConfig(output_dir="x", use_cpu=True).views() == ViewSettings()
    with pytest.raises(ValueError, match="'caption' must not be negative"):
        LLaVActionConfig(output_dir="x", use_cpu=True, caption_weight=-1.0)
    with pytest.raises(ValueError, match="needs --video_root"):
        LLaVActionConfig(output_dir="x", use_cpu=True, train_data=["a.jsonl"])
