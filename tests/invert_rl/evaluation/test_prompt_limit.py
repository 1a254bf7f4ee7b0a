"""A prompt that does not fit the model: the row is left out by name and line and counted, the others are answered."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.rows import read_rows, write_parquet, write_rows
from invert_rl.cli import main
from invert_rl.encoding import prompt_limit
from invert_rl.models import load_config

FRAMES = ["--min-pixels", "3136", "--max-pixels", "6272", "--max-new-tokens", "8", "--cpu"]
PLACES = 400


@pytest.fixture
def model(tiny_qwen2_5: str, tmp_path: Path) -> str:
    """The tiny checkpoint with so many places; a prompt of the toy world has about 160 tokens."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_qwen2_5, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = PLACES
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def data(world: Path, tmp_path: Path) -> Path:
    """Three rows, of which the second has a query of 400 words."""
    rows = read_rows(world / "test.jsonl")[:3]
    rows[1] = replace(rows[1], id="wordy", query=" ".join([rows[1].query] * (400 // len(rows[1].query.split()))))
    write_rows(rows, tmp_path / "d.jsonl")
    return tmp_path / "d.jsonl"


def test_evaluation_counts_it_and_names_its_line(model, data, world, tmp_path, capsys, caplog):
    command = ["evaluate", "--model", model, "--data", str(data), "--videos", str(world / "videos"), "--json"]
    assert main([*command, "--output", str(tmp_path / "p.jsonl"), *FRAMES]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 3 and result["n_too_long"] == 1 and result["n_missing_video"] == 0
    answers = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [answer["status"] for answer in answers] == [answers[0]["status"], "too_long", answers[2]["status"]]
    assert all(answer["text"] for answer in (answers[0], answers[2]))
    (told,) = [message for message in caplog.messages if "more than" in message]
    assert f"row wordy, tvg, {data}:2" in told
    assert f"more than {PLACES - 8}, the model's {PLACES} places less the 8 of an answer" in told


def test_rating_leaves_it_unrated_and_names_its_line(model, data, world, capsys, caplog):
    command = ["rate-difficulty", str(data), "--model", model, "--videos", str(world / "videos"), *FRAMES]
    assert main([*command, "--tasks", "tvg", "--generations", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["tvg"]["not_rated"] == 1
    assert f"row wordy, tvg, {data}:2" in caplog.text


def test_an_engine_with_fewer_places_than_the_model_sets_the_limit(model):
    config = load_config(model)
    assert prompt_limit(config, 8).tokens == PLACES - 8
    assert prompt_limit(config, 8, engine=100).tokens == 92
    assert prompt_limit(config, 8, engine=4 * PLACES).tokens == PLACES - 8
    assert prompt_limit(config, 8, most=50, engine=100).tokens == 50


def test_a_rows_place_is_not_part_of_it(data, tmp_path):
    rows = read_rows(data)
    assert [row.place for row in rows] == [f"{data}:{line}" for line in (1, 2, 3)]
    assert "place" not in data.read_text()
    write_rows(rows, tmp_path / "again.jsonl")
    write_parquet([replace(row, meta={"verbs": row.meta["verbs"]}) for row in rows], tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "again.jsonl") == rows
    assert [row.place for row in read_rows(tmp_path / "rows.parquet")] == [
        f"{tmp_path / 'rows.parquet'}: row {number}" for number in (1, 2, 3)
    ]
