"""A model folder that is moved is asked as it was trained."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.rows import read_rows, write_rows
from invert_rl.cli import main
from invert_rl.described import describe_model, description_of, differences_from
from invert_rl.tasks import load_preset


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is not asked, which takes many seconds where there is no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_frames_prompt_and_windows_go_with_the_folder(tmp_path, world, tiny_qwen2_5, capsys):
    data = tmp_path / "test.jsonl"
    write_rows(read_rows(world / "train.jsonl")[:2], data)
    own = tmp_path / "mine.json"
    own.write_text('{"layout": "bare", "tvg": {"prompt": "All moments of {query}?", "kind": "spans"}}')
    model = tmp_path / "moved" / "model"
    shutil.copytree(tiny_qwen2_5, model)
    preset = load_preset(str(own), ["tvg"], "all")
    frames = {"fps": 1.0, "min_pixels": 3136, "max_pixels": 6272, "image_patch_size": 14}
    describe_model(model, frames=frames, windows="all", prompt=preset.description())
    own.unlink()
    command = ["evaluate", "--model", str(model), "--data", str(data), "--videos", str(world / "videos"), "--cpu"]
    command += ["--output", str(tmp_path / "p.jsonl"), "--max-new-tokens", "3", "--json"]
    assert main(command) == 0
    protocol = json.loads(capsys.readouterr().out)["protocol"]
    assert protocol["prompt"] == preset.identity() == {"name": "mine", "sha256": preset.sha256}
    assert protocol["frames"]["fps"] == 1.0
    assert protocol["frames"]["max_pixels"] == 6272
    assert protocol["scoring"]["windows"] == "set IoU of all windows"
    said = [*command, "--prompt", "think", "--windows", "any", "--fps", "2", "--output", str(tmp_path / "q.jsonl")]
    assert main(said) == 0
    protocol = json.loads(capsys.readouterr().out)["protocol"]
    assert (protocol["prompt"]["name"], protocol["frames"]["fps"]) == ("think", 2.0)


def test_folders_without_or_with_a_damaged_description(tmp_path: Path, no_hub: None):
    assert description_of(str(tmp_path)) == {}
    assert description_of("some/hub-id") == {}
    (tmp_path / "invert_rl.json").write_text("[1]")
    with pytest.raises(DataError, match="expected an object, found list"):
        description_of(str(tmp_path))


def test_positions_and_verbs_are_the_models_unless_they_are_given(tmp_path, world, tiny_qwen2_5, capsys, caplog):
    data = tmp_path / "test.jsonl"
    write_rows(read_rows(world / "train.jsonl")[:2], data)
    model = tmp_path / "model"
    shutil.copytree(tiny_qwen2_5, model)
    command = ["evaluate", "--model", str(model), "--data", str(data), "--videos", str(world / "videos"), "--cpu"]
    command += ["--max-new-tokens", "3", "--json", "--max-pixels", "6272", "--min-pixels", "3136", "--tasks", "vc"]

    def protocol(name: str, *more: str) -> dict:
        assert main([*command, "--output", str(tmp_path / f"{name}.jsonl"), *more]) == 0
        return json.loads(capsys.readouterr().out)["protocol"]

    with caplog.at_level(logging.WARNING):
        silent = protocol("silent")
    assert "does not say how it was trained" in caplog.text
    assert silent["decoding"]["positions"] == "trained"
    verbs = {"verb_pipeline": None, "verb_match": "any", "verb_guard": "none", "ignore_verbs": "aspectual"}
    describe_model(model, frames={"fps": 1.0}, trained_positions=False, verbs=verbs)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        told = protocol("told")
    assert "does not say" not in caplog.text
    assert told["decoding"]["positions"] == "transformers"
    assert (told["scoring"]["verb_match"], told["scoring"]["verb_guard"]) == ("any", "none")
    given = protocol("given", "--no-transformers-positions", "--verb-match", "all", "--verb-pipeline", "shipped")
    assert given["decoding"]["positions"] == "trained"
    assert (given["scoring"]["verb_match"], given["scoring"]["verb_guard"]) == ("all", "none")


def test_a_run_says_where_its_start_model_was_trained_otherwise(tmp_path, no_hub):
    preset = load_preset("think", ["tvg"])
    known = {"frames": {"fps": 2.0, "max_pixels": 6272}, "prompt": preset.description(), "trained_positions": True}
    describe_model(tmp_path, **known)
    assert differences_from(str(tmp_path), known) == []
    other = {
        "frames": {"fps": 1.0, "max_pixels": 6272},
        "prompt": load_preset("no_think", ["tvg"]).description(),
        "trained_positions": False,
    }
    assert differences_from(str(tmp_path), other) == [
        "fps 1.0 instead of 2.0",
        "prompt no_think instead of think",
        "trained_positions False instead of True",
    ]
    assert differences_from("some/hub-id", other) == []
