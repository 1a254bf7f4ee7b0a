"""Whatever makes another run of it is in the fingerprint; what changes nothing in what is learned is not."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from data_prep.errors import DataError
from invert_rl.fingerprint import check_fingerprint, differences, fingerprint_of, write_fingerprint
from invert_rl.grpo.config import InvertGRPOConfig
from tests.invert_rl.tiny_run import SHORT_RUN


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": number}) + "\n" for number in range(31)))
    return path


def settings(data: Path, **changes: object) -> InvertGRPOConfig:
    given = {**SHORT_RUN, "output_dir": "x", "train_data": str(data), "num_generations": 4, **changes}
    return InvertGRPOConfig(**{"per_device_train_batch_size": 4, "max_steps": 9, **given})


CHANGES = [
    ({"seed": 4}, "seed 3 -> 4"),
    ({"learning_rate": 0.5}, "learning_rate 0.001 -> 0.5"),
    ({"tasks": ["tvg", "vc"]}, "tasks "),
    ({"tvg_probability": 0.5}, "tvg_probability 0.8 -> 0.5"),
    ({"num_generations": 2}, "num_generations 4 -> 2"),
    ({"per_device_train_batch_size": 8}, "per_device_train_batch_size 4 -> 8"),
    ({"windows": "any"}, "windows "),
    ({"prompt": "no_think"}, "prompt "),
    ({"verb_reward": "cosine"}, "verb_reward binary -> cosine"),
    ({"fps": 1.0}, "fps 2.0 -> 1.0"),
    ({"beta": 0.1}, "beta 0.0 -> 0.1"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_a_setting_that_makes_another_run_is_named_with_both_values(data, tmp_path, change, message):
    write_fingerprint(tmp_path, fingerprint_of(settings(data)))
    now = fingerprint_of(settings(data, **change))
    with pytest.raises(DataError, match=f"was written by another run: .*{message}.*--accept_changes"):
        check_fingerprint(str(tmp_path), now, accept=False)
    check_fingerprint(str(tmp_path), now, accept=True)


def test_contents_count_and_names_do_not(data, tmp_path, tiny_qwen2_5):
    model = tmp_path / "model"
    shutil.copytree(tiny_qwen2_5, model)
    then = fingerprint_of(settings(data), model=str(model), rows=31)
    moved = data.rename(tmp_path / "elsewhere.jsonl")
    assert differences(then, fingerprint_of(settings(moved), model=str(model), rows=31)) == {}
    lines = moved.read_text().splitlines(keepends=True)
    moved.write_text("".join(lines[:20][::-1]))
    (model / "generation_config.json").write_text("{}")
    found = differences(then, fingerprint_of(settings(moved), model=str(model), rows=20))
    assert found.keys() == {"train_data", "model", "rows"}
    assert found["rows"] == "rows 31 -> 20"
    assert found["train_data"].startswith("train_data sha256 ")


def test_versions_device_and_processes_are_part_of_it(data):
    found = fingerprint_of(settings(data))
    assert {"version of torch", "version of transformers", "version of trl", "device", "processes"} <= found.keys()
    assert "version of torch 1.0 -> " in differences({**found, "version of torch": "1.0"}, found)["version of torch"]


NEUTRAL = {
    "output_dir": "y",
    "save_steps": 7,
    "logging_steps": 5,
    "save_total_limit": 1,
    "dataloader_num_workers": 2,
    "eval_batch_size": 3,
    "frame_memory_mb": 9,
    "report_to": "tensorboard",
    "resume_from_checkpoint": "auto",
    "accept_changes": True,
}


def test_what_changes_nothing_in_what_is_learned_is_not_part_of_it(data):
    assert differences(fingerprint_of(settings(data)), fingerprint_of(settings(data, **NEUTRAL))) == {}


def test_a_longer_run_and_an_unmarked_checkpoint_are_said_and_go_on(data, tmp_path, caplog):
    write_fingerprint(tmp_path, fingerprint_of(settings(data)))
    (tmp_path / "old").mkdir()
    with caplog.at_level(logging.WARNING, logger="invert_rl.fingerprint"):
        check_fingerprint(str(tmp_path), fingerprint_of(settings(data, max_steps=20)), accept=False)
        check_fingerprint(str(tmp_path / "old"), {}, accept=False)
        check_fingerprint(None, {}, accept=False)
    assert "length has changed: max_steps 9 -> 20" in caplog.text and "has no fingerprint.json" in caplog.text


def test_what_the_optimizer_keeps_is_said(data, tmp_path, caplog):
    write_fingerprint(tmp_path, fingerprint_of(settings(data)))
    with caplog.at_level(logging.WARNING, logger="invert_rl.fingerprint"):
        check_fingerprint(str(tmp_path), fingerprint_of(settings(data, learning_rate=0.5)), accept=True)
    assert "learning_rate: the optimizer's state keeps what the checkpoint has" in caplog.text
