"""A run stopped in the middle of its turns goes on bit for bit, class means included."""

from __future__ import annotations

import json

import pytest
import torch

from tests.invert_rl.actionvlm.small import arguments, experiment, weights


def log_of(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "loss" in line}


@pytest.mark.parametrize("stop", [3, 5], ids=["in a language epoch", "in a vision epoch"])
def test_a_resumed_run_is_bit_equal(tmp_path, stop):
    """Epochs have two steps: 0 and 1 vision, 2 and 3 both, 4 and 5 vision."""
    changes = {"save_strategy": "steps", "save_steps": stop, "lr_scheduler_type": "constant", "max_steps": 8}
    whole = experiment(tmp_path / "whole", **{**changes, "save_strategy": "no"})
    assert whole.batches().schedule.steps_per_epoch == 2
    whole.trainer().train()
    cut = experiment(tmp_path / "cut", **{**changes, "max_steps": stop})
    cut.trainer().train()
    fresh = experiment(tmp_path / "cut", **{**changes, "seed": 3})
    with torch.no_grad():
        for value in fresh.model.parameters():
            value.add_(0.5)
    fresh.args = arguments(tmp_path / "cut", **changes)
    fresh.trainer().train(resume_from_checkpoint=str(tmp_path / "cut" / f"checkpoint-{stop}"))
    expected, got = weights(whole), weights(fresh)
    assert expected.keys() == got.keys()
    assert {"means.mean", "means.total", "means.count", "means.epoch"} <= got.keys()
    for name, value in expected.items():
        assert torch.equal(value, got[name]), name
    first, second = log_of(tmp_path / "whole"), log_of(tmp_path / "cut")
    assert first.keys() == second.keys() == set(range(1, 9))
    for step in range(stop + 1, 9):
        for name in first[step]:
            if name.split("/")[0] in ("loss", "vision", "language"):
                assert first[step][name] == second[step][name], (step, name)


def test_lora_runs_resume_without_the_frozen_weights(tmp_path):
    changes = {"save_strategy": "steps", "save_steps": 3, "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.0}
    run = experiment(tmp_path, **changes)
    run.trainer().train()
    again = experiment(tmp_path, **changes)
    trainer = again.trainer()
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for name, value in weights(run).items():
        assert torch.equal(value, weights(again)[name]), name


def test_epochs_take_turns_in_the_log(tmp_path):
    experiment(tmp_path).trainer().train()
    log = log_of(tmp_path)
    for step, line in log.items():
        vision = (step - 1) // 2 % 2 == 0
        assert ("vision/classification" in line) == vision, step
        assert ("language/advantage" in line) != vision, step
