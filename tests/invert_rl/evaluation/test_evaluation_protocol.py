"""Prompt presets and the protocol that says whether two numbers can be compared."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.cli import main
from invert_rl.evaluation.protocols.fields import differences, model_sha256, protocol_id, protocol_line
from invert_rl.tasks import TASKS, load_preset, preset_names

ROW = Row("a", "a.mp4", 10.0, "A person opens the Door.", ((1.0, 2.0),), meta={"masked_query": "A person [] the door."})
PROTOCOL = {
    "data": {"name": "test.jsonl", "rows": 10, "sha256": "aa"},
    "scoring": {
        "thresholds": [0.3, 0.5, 0.7],
        "comparison": ">=",
        "windows": "best of several windows",
        "no_answer": "IoU 0 without an answer",
        "verbs": None,
        "verb_match": None,
    },
    "versions": {"python": "3.11"},
    "model": {"name": "m", "sha256": "bb"},
    "prompt": {"name": "think", "sha256": "cc"},
    "frames": {
        "fps": 2.0,
        "min_frames": 4,
        "max_frames": 768,
        "total_pixels": 100,
        "min_pixels": 10,
        "max_pixels": 50,
        "image_patch_size": 14,
    },
    "decoding": {"method": "greedy", "max_new_tokens": 50, "backend": "transformers", "dtype": "bfloat16"},
}


def test_think_is_the_prompt_of_training() -> None:
    assert load_preset("think", list(TASKS)).tasks == TASKS


def test_every_preset_fills_its_prompts() -> None:
    assert {"think", "no_think", "lmms_eval", "timelens"} <= set(preset_names())
    hashes = set()
    for name in preset_names():
        preset = load_preset(name)
        hashes.add(preset.sha256)
        for task in preset.tasks.values():
            text = task.text(ROW).lower()
            assert "{" not in text
            assert ("a person opens the door" in text) == (task.name in ("tvg", "refuse"))
            assert ("a person [] the door" in text) == (task.name == "vc")
    assert len(hashes) == len(preset_names())


def test_own_preset_and_its_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"about": "mine", "tvg": "When does {query} happen? {{}}"}))
    assert load_preset(str(path)).tasks["tvg"].text(ROW) == "When does a person opens the door happen? {}"
    with pytest.raises(DataError, match="no prompt for ar"):
        load_preset(str(path), ["tvg", "ar"])
    with pytest.raises(DataError, match="no prompt preset 'thinking'; there are ego4d_nlq, lmms_eval, momentseeker"):
        load_preset("thinking")
    for content, message in (
        ({"tvg": "{event}"}, r"holds \{event\}"),
        ({"tvg": "{query"}, "cannot be filled"),
        ({"sing": "la"}, "'sing' is neither a task"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=message):
            load_preset(str(path))


def changed(*path_and_value: object) -> dict:
    protocol = copy.deepcopy(PROTOCOL)
    *path, last, value = path_and_value
    part = protocol
    for name in path:
        part = part[name]  # type: ignore[index]
    part[last] = value  # type: ignore[index]
    return protocol


@pytest.mark.parametrize(
    "path",
    [
        ("frames", "fps", 1.0),
        ("prompt", "sha256", "dd"),
        ("data", "sha256", "dd"),
        ("decoding", "max_new_tokens", 1024),
        ("scoring", "comparison", ">"),
        ("frames", None),
    ],
)
def test_what_must_agree(path: tuple) -> None:
    other = changed(*path)
    assert len(differences(PROTOCOL, other)) == 1
    assert protocol_id(other) != protocol_id(PROTOCOL)


@pytest.mark.parametrize(
    "path",
    [("model", "sha256", "dd"), ("versions", "python", "3.12"), ("data", "name", "x"), ("prompt", "name", "x")],
)
def test_what_may_differ(path: tuple) -> None:
    other = changed(*path)
    assert differences(PROTOCOL, other) == []
    assert protocol_id(other) == protocol_id(PROTOCOL)
    assert protocol_line(other) != protocol_line(PROTOCOL)


def test_line_holds_every_part() -> None:
    line = protocol_line(PROTOCOL)
    for text in (
        "test.jsonl 10 rows",
        "think cc",
        "2 fps",
        "100 pixels",
        "greedy, 50 tokens",
        ">= 0.3, 0.5, 0.7",
        "m bb",
    ):
        assert text in line
    assert "\n" not in line


def test_model_hash_follows_the_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = model_sha256(tmp_path)
    (tmp_path / "notes.md").write_text("not part of the model")
    assert model_sha256(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    assert model_sha256(tmp_path) != first


def test_results_are_compared_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**vars(ROW), "id": f"r{n}", "windows": [[1.0, 3.0]]} for n in range(4)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    for name, end in (("old", 2.0), ("new", 3.0)):
        lines = [json.dumps({"id": f"r{n}", "windows": [[1.0, end]]}) + "\n" for n in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    files = {path.stem: str(path) for path in tmp_path.iterdir()}
    main(["evaluate", "--predictions", files["old"], "--data", files["d"], "--json"])
    (tmp_path / "old.json").write_text(capsys.readouterr().out)
    command = ["evaluate", "--predictions", files["new"], "--against", str(tmp_path / "old.json"), "--json"]
    assert main([*command, "--data", files["d"]]) == 0
    assert json.loads(capsys.readouterr().out)["change"]["mIoU"] == pytest.approx(50)
    assert main([*command, "--data", files["d"], "--strict"]) == 1
    assert (
        "cannot be compared with this result, the protocols differ: scoring.comparison: >, >="
        in capsys.readouterr().err
    )
