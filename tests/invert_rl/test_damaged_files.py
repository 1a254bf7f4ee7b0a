"""Damaged files that runs leave beside weights: an error that names the file, or another reading of the data."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import DataError
from invert_rl.evaluation.difficulty import read_ratings
from invert_rl.evaluation.predictions import Prediction
from invert_rl.evaluation.runs import before_after
from invert_rl.fingerprint import check_fingerprint
from invert_rl.grpo.round_state import _solve_rates, check_whole_round
from invert_rl.llavaction.model import read_heads
from invert_rl.llavaction.report import read_answers
from invert_rl.loading import CheckpointError
from invert_rl.models import adapter_of
from invert_rl.tal.joint import read_joint_features
from invert_rl.tasks import load_preset
from invert_rl.video.quarantine import Quarantine
from tests.invert_rl.evaluation.test_adopt_samples import ROWS, NoModel, write_samples

READERS: dict[str, Callable[[Path], Any]] = {
    "fingerprint.json": lambda path: check_fingerprint(str(path.parent), {}, False),
    "quarantine.json": lambda path: Quarantine().read(path),
    "adapter_config.json": lambda path: adapter_of(str(path.parent)),
    "solve_rates.json": _solve_rates,
    "trainer_state.json": lambda path: check_whole_round(path.parent, 2, 10),
    "samples_before.jsonl": read_answers,
    "rated.jsonl.part0": lambda path: read_ratings(path.with_name("rated.jsonl")),
}
DAMAGE = {
    "cut off": b'{"a": \n{"b": 2}\n',
    "no text": b"\xff\xfe\x00 \n",
    "a list": b"[[1]]\n",
    "a number": b"3\n",
    "null": b"null\n",
    "nested": b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", READERS)
def test_the_error_names_the_file(name, damage, tmp_path):
    (tmp_path / name).write_bytes(DAMAGE[damage])
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises((DataError, CheckpointError), match=name):
        READERS[name](tmp_path / name)


def test_damaged_heads_of_an_action_model_are_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\x10" * 64)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be loaded"):
        read_heads(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x80\x04no pickle", b"\x93NUMPY\x01\x00"])
def test_a_damaged_package_of_features_is_named(tmp_path, content):
    path = tmp_path / "Thumos14reduced-I3D-JOINTFeatures.npy"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"JOINTFeatures\.npy: cannot be read as an array"):
        read_joint_features(tmp_path, allow_pickle=True)


@pytest.mark.parametrize("damage", ["a half line", "no line", "another row"])
def test_samples_that_are_not_whole_are_made_again(tmp_path, caplog, monkeypatch, damage):
    """Else a resumed run would report its start model by the answers that happen to be left."""
    path = write_samples(tmp_path / "samples_before.jsonl", ["r0", "r1"])
    first, second = path.read_text().splitlines()
    other = json.dumps({**json.loads(second), "id": "r0"})
    path.write_text(first + "\n" + {"a half line": second[:30], "no line": "", "another row": other}[damage])
    made = [Prediction(row.id, "tvg", windows=[(0.0, 2.5)]) for row in ROWS]
    monkeypatch.setattr(before_after, "answer_rows", lambda *args: made)
    trainer: Any = NoModel(tmp_path)
    trainer.model = trainer.model_wrapped = None
    trainer.accelerator = type("", (), {"is_main_process": True})
    with caplog.at_level(logging.WARNING):
        metrics = before_after.evaluate_once("before", trainer, ROWS, load_preset("think"), {}, reuse=True)
    assert metrics["mIoU"] == 50.0 and "made again" in caplog.text
    assert len(path.read_text().splitlines()) == 2
