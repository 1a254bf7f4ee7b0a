"""Ground truth counts as published, even where training wants it clipped to its video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from invert_rl.cli import main
from invert_rl.tal.outcome import write_outcome

THUMOS = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "thumos14" / "thumos14.json.gz"
RECORD = {"subset": "test", "duration": 10.0}


def evaluate(truth: Path, predictions: Path, capsys: Any, *arguments: str) -> Any:
    files = ["--predictions", str(predictions), "--ground-truth", str(truth), "--json", *arguments]
    assert main(["evaluate-detection", *files]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.skipif(not THUMOS.is_file(), reason="thumos14.json.gz is not here: published annotations of THUMOS14")
@pytest.mark.parametrize("protocol", ["activitynet", "actionformer", "delu"])
@pytest.mark.parametrize("rule", ["clip", "keep"])
def test_all_of_thumos14_counts(protocol: str, rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """3,358 test segments, also where the 26 after the end of their video are not trained on."""
    out = tmp_path / "test.json"
    convert = ["convert", "thumos14", "--annotations", str(THUMOS), "--split", "test", "--segments", rule]
    assert main([*convert, "--output", str(out)]) == 0
    capsys.readouterr()
    (tmp_path / "p.json").write_text(
        json.dumps({"results": {"video_test_0000004": [{"segment": [0, 1], "label": "Diving", "score": 1.0}]}})
    )
    found = evaluate(out, tmp_path / "p.json", capsys, "--protocol", protocol, "--subset", "test")
    assert found["n_ground_truth"] == 3358


def test_a_score_is_made_again_from_the_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside, outside = ({"segment": segment, "label": "jump"} for segment in ([1.0, 3.0], [11.0, 12.0]))
    database = {
        "a": {**RECORD, "annotations": [inside], "published": [inside, outside]},
        "b": {"subset": "validation", "duration": 10.0, "annotations": [inside]},
    }
    results = {"a": [{"segment": [1.0, 3.0], "label": "jump", "score": 0.5}]}
    command = write_outcome(tmp_path, results, database, "Test", "activitynet", [0.3, 0.5])
    truth = json.loads((tmp_path / "ground_truth.json").read_text())["database"]
    assert truth == {"a": {**RECORD, "annotations": [inside, outside]}}
    words = command.split()
    assert words[:2] == ["invert-rl", "evaluate-detection"]
    words = [str(tmp_path / word) if word.endswith(".json") else word for word in words]
    assert main([*words[1:], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["thresholds"] == [0.3, 0.5]
    assert found["n_ground_truth"] == 2
    assert found["average_mAP"] == pytest.approx(0.5)  # half of the ground truth, all of it right
