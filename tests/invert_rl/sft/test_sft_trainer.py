"""Supervised steps: the loss is the answer's under the video, resume is exact, broken videos are replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from data_prep.rows import Row
from invert_rl.models import load_model, load_processor
from invert_rl.schedule import Draw
from invert_rl.sft.config import InvertSFTConfig
from invert_rl.sft.trainer import IGNORED, InvertSFTTrainer
from invert_rl.tasks import TASKS
from invert_rl.video.store import FrameStore
from tests.invert_rl.tiny_run import SHORT_RUN

MakeTrainer = Callable[..., InvertSFTTrainer]


@pytest.fixture
def make_trainer(world: Path, rows: list[Row], tmp_path: Path) -> MakeTrainer:
    """Build a trainer; keywords override the settings, ``peft_config`` and ``rows`` are passed on."""

    def build(checkpoint: str, output_dir: str | None = None, **overrides: Any) -> InvertSFTTrainer:
        passed = {"peft_config": overrides.pop("peft_config")} if "peft_config" in overrides else {}
        data = overrides.pop("rows", rows)
        model = load_model(checkpoint, dtype=overrides.pop("dtype", "auto"))
        if "positions" in overrides:
            model.config.get_text_config().max_position_embeddings = overrides.pop("positions")
        settings = {
            **SHORT_RUN,
            "output_dir": output_dir or str(tmp_path / "run"),
            "per_device_train_batch_size": 4,
            "max_steps": 2,
            **overrides,
        }
        args = InvertSFTConfig(**settings)
        processor = load_processor(checkpoint)
        return InvertSFTTrainer(
            model=model,
            rows=data,
            target=lambda draw, row: TASKS[draw.task].target(row),
            args=args,
            processing_class=processor,
            store=FrameStore(world / "videos", args.frame_settings(processor.video_processor.patch_size)),
            **passed,
        )

    return build


def parameters(trainer: InvertSFTTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def changed(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.parametrize("lora", [False, True])
def test_two_steps_of_each_family(make_trainer, tiny_checkpoint, lora):
    settings = {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"])} if lora else {}
    trainer = make_trainer(tiny_checkpoint, **settings)
    before = parameters(trainer)
    trainer.train()
    names = changed(before, parameters(trainer))
    assert names
    if lora:
        assert all("lora" in name for name in names)
    else:
        assert any("visual" in name for name in names)


def test_the_loss_is_that_of_the_answer_under_the_video(make_trainer, tiny_qwen2_5, rows):
    """Against a forward and a cross-entropy by hand, row by row; without the video it is another."""
    trainer = make_trainer(tiny_qwen2_5, tasks=["tvg"], tvg_probability=1.0)
    draws = [Draw("tvg", 0, 0, 0), Draw("tvg", 1, 0, 1)]
    batch = trainer.data_collator([trainer.train_dataset[draw] for draw in draws])
    tokenizer = trainer.processing_class.tokenizer
    for draw, ids, labels in zip(draws, batch["input_ids"], batch["labels"], strict=True):
        taught = ids[labels != IGNORED]
        assert torch.equal(taught, labels[labels != IGNORED])
        text = tokenizer.decode(taught, skip_special_tokens=False)
        assert text == TASKS["tvg"].target(rows[draw.row]) + "<|im_end|>"
    model = trainer.model.eval()
    with torch.no_grad():
        loss = trainer.compute_loss(model, {name: value.clone() for name, value in batch.items()})
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        logits = model(**inputs).logits
        blind = dict(inputs, pixel_values_videos=torch.zeros_like(inputs["pixel_values_videos"]))
        blind_logits = model(**blind).logits
    by_hand = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED
    )
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert (logits - blind_logits).abs().max() > 1e-4


def test_small_steps_from_a_checkpoint_in_bfloat16_move_nearly_all_weights(make_trainer, tiny_qwen2_5):
    trainer = make_trainer(tiny_qwen2_5, dtype="bfloat16", learning_rate=1e-6, bf16=True)
    before = parameters(trainer)
    trainer.train()
    after = parameters(trainer)
    moved = sum((after[name] != before[name]).sum().item() for name in before)
    assert moved > 0.9 * sum(value.numel() for value in before.values())
    moments = [value for state in trainer.optimizer.state.values() for value in state.values() if value.ndim]
    assert {value.dtype for value in (*after.values(), *moments)} == {torch.float32}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_it_learns_what_it_is_taught(make_trainer, tiny_qwen2_5, seed):
    trainer = make_trainer(tiny_qwen2_5, max_steps=30, learning_rate=3e-3, seed=seed, tasks=["tvg"])
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_resume_in_a_later_epoch_is_exact(make_trainer, tiny_qwen2_5, rows, tmp_path):
    settings = {"rows": rows[:6], "max_steps": 8, "save_strategy": "steps", "save_steps": 3}
    straight = make_trainer(tiny_qwen2_5, str(tmp_path / "straight"), **settings)
    straight.train()
    assert straight.state.epoch > 3
    resumed = make_trainer(tiny_qwen2_5, str(tmp_path / "resumed"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-3"))
    assert changed(parameters(straight), parameters(resumed)) == []


def test_a_missing_video_is_replaced_with_its_row(make_trainer, tiny_qwen2_5, rows):
    lost = replace(rows[0], id="lost", video="lost.mp4")
    trainer = make_trainer(tiny_qwen2_5, rows=[lost, *rows[1:3]], max_steps=3)
    seen = []
    target = trainer.data_collator.target
    trainer.data_collator.target = lambda draw, row: seen.append(row.id) or target(draw, row)
    trainer.train()
    assert set(trainer.quarantine.videos) == {"lost.mp4"}
    assert len(seen) == 12
    assert set(seen) == {rows[1].id, rows[2].id}


def test_a_row_that_does_not_fit_the_model_is_replaced_and_named_with_its_line(make_trainer, tiny_qwen2_5, rows):
    """Prompt and answer together: with one place less than the longest needs, only that one is left out."""
    probe = make_trainer(tiny_qwen2_5, tasks=["tvg"])
    lengths = {
        row.id: len(probe.data_collator([probe.train_dataset[Draw("tvg", place, 0, 0)]])["input_ids"][0])
        for place, row in enumerate(rows)
    }
    longest = max(lengths.values())
    too_long = {name for name, length in lengths.items() if length == longest}
    assert len(too_long) < len(rows)
    trainer = make_trainer(tiny_qwen2_5, tasks=["tvg"], tvg_probability=1.0, max_steps=2, positions=longest)
    trainer.train()
    assert not trainer.quarantine.videos
    trainer = make_trainer(tiny_qwen2_5, tasks=["tvg"], tvg_probability=1.0, max_steps=4, positions=longest - 1)
    seen = [trainer.data_collator([trainer.train_dataset[Draw("tvg", place, 0, 0)]]) for place in range(len(rows))]
    fitting = max(length for length in lengths.values() if length < longest)
    assert max(len(batch["input_ids"][0]) for batch in seen) == fitting
    assert len(trainer.quarantine.videos) == len(too_long)
    for name, reason in trainer.quarantine.videos.items():
        (row,) = [row for row in rows if f"row {row.id}, tvg, {row.place}" in name]
        assert row.id in too_long and row.place.endswith(f"train.jsonl:{rows.index(row) + 1}")
        assert f"the prompt has {longest} tokens, more than {longest - 1}, the model's {longest - 1} places" in reason
    trainer.train()
