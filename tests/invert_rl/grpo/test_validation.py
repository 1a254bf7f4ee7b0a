"""Validation while a run trains: what is logged, that it changes nothing, the best model, early stopping, resume."""

from __future__ import annotations

import json

import pytest
import torch

from data_prep.errors import DataError
from data_prep.rows import read_rows
from data_prep.verbs import annotate_missing
from invert_rl.evaluation.jobs import jobs_of
from invert_rl.evaluation.runs.greedy import Halving, Together
from invert_rl.evaluation.runs.validation import Validation, fixed_part
from invert_rl.grpo.trainer import InvertGRPOTrainer
from invert_rl.tasks.presets import load_preset
from rewards.pipelines import load_pipeline

EVERY_TWO = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 4}


@pytest.fixture
def validated(make_trainer, world):
    """``validated(checkpoint, …)``: a trainer with a validation on the world's test rows."""

    def build(checkpoint: str, *args, **settings) -> InvertGRPOTrainer:
        trainer = make_trainer(checkpoint, *args, **settings)
        pipeline = load_pipeline()
        rows = annotate_missing(read_rows(world / "test.jsonl"), pipeline)
        preset, options = load_preset("think", ("tvg", "vc", "ar", "vd")), trainer.args.verb_options(pipeline)
        trainer.validation = Validation(rows, preset, options, trainer.args.keep_best)
        for callback in trainer.args.stopping_callbacks():
            trainer.add_callback(callback)
        return trainer

    return build


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def validations(trainer) -> list[dict]:
    return [entry for entry in trainer.state.log_history if "eval/mIoU" in entry]


@pytest.mark.parametrize("metric", ["eval/n", "eval/nonsense"])
def test_the_best_is_chosen_by_a_metric_of_the_tasks(world, metric):
    with pytest.raises(DataError, match=f"'{metric}' is no metric of these tasks; choose from eval/R1@0.3"):
        Validation(read_rows(world / "test.jsonl"), load_preset("think", ("tvg",)), {}, metric)


def test_it_is_logged_for_all_tasks_and_changes_nothing(validated, make_trainer, tiny_qwen2_5, tmp_path):
    plain = make_trainer(tiny_qwen2_5, str(tmp_path / "plain"), max_steps=4)
    plain.train()
    trainer = validated(tiny_qwen2_5, str(tmp_path / "validated"), **EVERY_TWO, eval_on_start=True)
    trainer.train()
    found = validations(trainer)
    assert [entry["step"] for entry in found] == [0, 2, 4]
    assert {"eval/mIoU", "eval/R1@0.7", "eval/VC", "eval/AR", "eval/VD"} <= found[0].keys()
    assert (tmp_path / "validated" / "validation" / "samples_000002.jsonl").is_file()
    assert weights(plain).keys() == weights(trainer).keys()
    assert all(torch.equal(value, weights(trainer)[name]) for name, value in weights(plain).items())
    rounds = [[log["tvg/reward"] for log in t.state.log_history if "tvg/reward" in log] for t in (plain, trainer)]
    assert rounds[0] == rounds[1]


def test_the_best_model_is_kept_and_training_stops_early(validated, tiny_qwen2_5, tmp_path, monkeypatch):
    values = iter([10.0, 30.0, 20.0, 25.0, 99.0])
    monkeypatch.setattr(Validation, "__call__", lambda self, trainer: {"mIoU": next(values)})
    settings = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 9, "keep_best": "eval/mIoU"}
    trainer = validated(tiny_qwen2_5, str(tmp_path / "run"), **settings, early_stopping_patience=2)
    trainer.train()
    assert trainer.state.global_step == 4
    best = json.loads((tmp_path / "run" / "best" / "validation.json").read_text())
    assert best == {"metric": "eval/mIoU", "value": 30.0, "step": 2}
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


def test_resume_is_exact_with_validation_and_early_stopping(validated, tiny_qwen2_5, tmp_path):
    settings = {**EVERY_TWO, "eval_steps": 1, "save_strategy": "steps", "save_steps": 2}
    settings |= {"keep_best": "eval/mIoU", "early_stopping_patience": 3}
    straight = validated(tiny_qwen2_5, str(tmp_path / "straight"), **settings)
    straight.train()
    resumed = validated(tiny_qwen2_5, str(tmp_path / "resumed"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    assert resumed.state.global_step == straight.state.global_step
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(straight).items())
    drop = "eval/seconds"
    for one, other in zip(validations(straight), validations(resumed), strict=True):
        assert {k: v for k, v in one.items() if k != drop} == {k: v for k, v in other.items() if k != drop}


def test_the_part_is_fixed_by_the_seed(rows):
    assert fixed_part(rows, None, 0) == rows
    one = fixed_part(rows, 3, 0)
    assert one == fixed_part(rows, 3, 0)
    assert len(one) == 3
    assert [rows.index(row) for row in one] == sorted(rows.index(row) for row in one)
    assert any(fixed_part(rows, 3, seed) != one for seed in (1, 2, 3))


def test_a_metric_that_is_not_there_is_refused_before_training(world):
    preset = load_preset("think", ("tvg",))
    with pytest.raises(DataError, match=r"eval/mAP.*choose from eval/.*mIoU"):
        Validation(read_rows(world / "test.jsonl"), preset, {}, "eval/mAP")


def test_batches_are_halved_until_they_fit():
    asked = []

    def complete(prompts):
        asked.append(len(prompts))
        if len(prompts) > 3:
            raise torch.OutOfMemoryError("full")
        return [[prompt] for prompt in prompts]

    halving = Halving(complete)
    assert halving(list(range(10))) == [[n] for n in range(10)]
    assert asked == [10, 5, 2, 2, 2, 2, 2]
    assert halving(list(range(3))) == [[0], [1], [2]]

    def never(prompts):
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        Halving(never)([1, 2])


def test_one_rank_without_prompts_is_no_trouble_alone():
    assert Together(lambda prompts: [[1]] * len(prompts))([]) == []
    assert Together(lambda prompts: [[1]] * len(prompts))(["a", "b"]) == [[1], [1]]


def test_greedy_answers_heed_nothing_of_the_checkpoint(make_trainer, tiny_checkpoint, world, rows):
    """A penalty for repetitions, n-grams, lengths and words that a checkpoint ships change neither answers."""
    from invert_rl.evaluation.predict import complete_with
    from tests.invert_rl.grpo.scoring_batches import encode

    trainer = make_trainer(tiny_checkpoint)
    prompts = encode(tiny_checkpoint, world, [("tvg", rows[0]), ("tvg", rows[1])])
    answer = complete_with(trainer.model, trainer.processing_class, 12)
    plain = answer(prompts)
    shipped = trainer.model.generation_config
    shipped.repetition_penalty, shipped.no_repeat_ngram_size, shipped.min_new_tokens = 5.0, 1, 12
    shipped.bad_words_ids = [[token] for token in sorted({ids[0] for ids in plain})]
    assert complete_with(trainer.model, trainer.processing_class, 12)(prompts) == plain
    assert trainer.model.generation_config is shipped
    free = trainer.model.generate(torch.tensor([prompts[0].input_ids]), max_new_tokens=2, do_sample=False)
    assert free[0, -2] != plain[0][0]  # generate itself would heed them


def test_summaries_say_why_the_last_evaluation_failed(validated, tiny_qwen2_5, monkeypatch, world):
    from invert_rl.evaluation.runs import before_after

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(before_after, "answer_rows", full)
    trainer = validated(tiny_qwen2_5)
    metrics, failed = before_after.evaluate_last(trainer, read_rows(world / "test.jsonl"), load_preset("think"), {})
    assert metrics == {}
    assert failed == "OutOfMemoryError: full"


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_tower_sees_each_clip_once_in_all_evaluations(validated, tiny_qwen2_5, frozen):
    """Three of four tasks show a row's segment, and two evaluations the same; a tower that is trained sees all anew."""
    trainer = validated(tiny_qwen2_5, freeze_vision=frozen, vision_memory_mb=100)
    jobs = jobs_of(list(trainer.validation.preset.tasks.values()), trainer.validation.rows)
    clips = len({task.video(row) for task, row in jobs})
    assert clips < len(jobs)
    first = trainer.validation(trainer)
    seen = trainer.vision.calls
    assert trainer.validation(trainer) == first
    assert seen == (clips if frozen else len(jobs))
    assert trainer.vision.calls == (seen if frozen else 2 * seen)
