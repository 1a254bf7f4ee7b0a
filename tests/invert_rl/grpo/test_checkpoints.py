"""Checkpoints are there as a whole or not at all; a damaged one is skipped with a message that names the file."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from data_prep.errors import DataError
from invert_rl.checkpoints import DRAFTS, discard, publish, rotate
from invert_rl.checksums import MANIFEST
from invert_rl.resume import latest_checkpoint, resume_point, why_incomplete
from tests.invert_rl.grpo import two_ranks

SAVING = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 4}


@pytest.fixture(scope="module", params=["full", "lora"])
def run(request, tiny_qwen2_5, world, tmp_path_factory) -> Path:
    """The folder of a run with two checkpoints."""
    folder: Path = tmp_path_factory.mktemp("run")
    job = {"checkpoint": tiny_qwen2_5, "world": str(world), "output": str(folder), "settings": SAVING}
    two_ranks.main({**job, "lora": request.param == "lora"})
    return folder


def needed_files(checkpoint: Path) -> list[str]:
    return [path.name for path in checkpoint.iterdir() if path.suffix != ".md"]


def test_a_run_leaves_whole_checkpoints_and_no_drafts(run):
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    assert not (run / DRAFTS).exists() or not any((run / DRAFTS).iterdir())
    for number in (1, 2):
        assert why_incomplete(run / f"checkpoint-{number}") is None
        assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", MANIFEST} <= set(
            needed_files(run / f"checkpoint-{number}")
        )


@pytest.mark.parametrize("listed", [True, False], ids=["with its list", "without its list"])
def test_each_file_that_is_cut_off_or_gone_is_noticed(run, tmp_path, caplog, listed):
    """Without the list what is noticed is what training reads back: weights, states, the position in the run."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    newest = copy / "checkpoint-2"
    if not listed:
        (newest / MANIFEST).unlink()
    names = needed_files(newest)
    if not listed:
        names = [name for name in names if name.endswith((".safetensors", ".pt", ".pth")) or "state" in name]
    assert len(names) >= 5
    for name in names:
        whole = (newest / name).read_bytes()
        for kept in (0, len(whole) // 2, len(whole) - 2):
            (newest / name).write_bytes(whole[:kept])
            caplog.clear()
            with caplog.at_level(logging.WARNING, logger="invert_rl.resume"):
                assert latest_checkpoint(copy) == str(copy / "checkpoint-1"), (name, kept)
            assert f"skipping checkpoint {newest}: {name} is cut off" in caplog.text
            with pytest.raises(DataError, match=f"cannot be resumed from, {name} is cut off"):
                resume_point(str(copy), str(newest))
        (newest / name).unlink()
        if name != MANIFEST:
            assert "is missing" in (why_incomplete(newest) or ""), name
        (newest / name).write_bytes(whole)
    assert why_incomplete(newest) is None


def test_no_checkpoint_at_all_is_a_fresh_start_with_a_message(tmp_path, caplog):
    (tmp_path / "checkpoint-3").mkdir()
    with caplog.at_level(logging.WARNING, logger="invert_rl.resume"):
        assert resume_point(str(tmp_path), "latest") is None
    assert "checkpoint-3: trainer_state.json is missing" in caplog.text
    assert "starting from the beginning" in caplog.text


def test_resuming_from_the_last_checkpoint_makes_no_further_step(make_trainer, tiny_qwen2_5, tmp_path):
    settings = {**SAVING, "lr_scheduler_type": "constant"}  # a linear one has come to zero and hides a step too many
    straight = make_trainer(tiny_qwen2_5, str(tmp_path / "run"), **settings)
    straight.train()
    resumed = make_trainer(tiny_qwen2_5, str(tmp_path / "again"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.state.global_step == 2
    assert not (tmp_path / "again" / "checkpoint-3").exists()
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("method", ["_save_optimizer_and_scheduler", "_save_rng_state", "_save"])
def test_a_write_that_fails_half_way_leaves_no_checkpoint(make_trainer, tiny_qwen2_5, tmp_path, method, monkeypatch):
    trainer = make_trainer(tiny_qwen2_5, str(tmp_path / "run"), **SAVING)
    original = getattr(trainer, method)

    def full_disk(*args, **kwargs):
        if trainer.state.global_step == 2:
            raise OSError(28, "No space left on device")
        return original(*args, **kwargs)

    monkeypatch.setattr(trainer, method, full_disk)
    with pytest.raises(OSError, match="No space left"):
        trainer.train()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
    assert latest_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-1")


def draft(run: Path, content: str) -> Path:
    folder = run / DRAFTS / "checkpoint-7"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.pt").write_text(content)
    return folder


def test_publishing_replaces_a_damaged_checkpoint_of_the_same_name(tmp_path):
    final = tmp_path / "checkpoint-7"
    publish(draft(tmp_path, "old"), final)
    publish(draft(tmp_path, "new"), final)
    assert (final / "sub" / "a.pt").read_text() == "new"
    listed = json.loads((final / MANIFEST).read_text())
    assert listed == {"sub/a.pt": {"size": 3, "sha256": hashlib.sha256(b"new").hexdigest()}}
    assert not any((tmp_path / DRAFTS).iterdir())


def test_rotation_keeps_the_newest_and_the_one_just_written(tmp_path):
    for number in (3, 9, 12, 100):
        (tmp_path / f"checkpoint-{number}").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    rotate(tmp_path, None, tmp_path / "checkpoint-3")
    rotate(tmp_path, 3, tmp_path / "checkpoint-3")
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {
        *("checkpoint-3", "checkpoint-12", "checkpoint-100", "checkpoint-best")
    }
    discard(tmp_path / "checkpoint-never")
