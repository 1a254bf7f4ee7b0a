"""``invert-rl evaluate-detection``: what it prints and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from invert_rl.cli import main

TRUTH = {
    "database": {
        "a": {"subset": "Validation", "annotations": [{"segment": [0, 10], "label": "x"}]},
        "b": {"subset": "Test", "annotations": [{"segment": [0, 10], "label": "x"}, {"segment": [5, 5], "label": "y"}]},
        "c": {"subset": "Testing", "annotations": []},
    }
}
PREDICTIONS = {"results": {"b": [{"segment": [0, 9], "label": "x", "score": 0.5}]}}


def evaluate(tmp_path: Path, predictions: Any, *arguments: str, truth: Any = TRUTH) -> int:
    (tmp_path / "g.json").write_text(json.dumps(truth))
    (tmp_path / "p.json").write_text(json.dumps(predictions))
    files = ["--predictions", str(tmp_path / "p.json"), "--ground-truth", str(tmp_path / "g.json")]
    return main(["evaluate-detection", *files, *arguments])


def test_result_says_how_it_was_counted(tmp_path: Path, capsys: Any) -> None:
    arguments = ["--protocol", "opentad", "--subset", "test", "--thresholds", "0.5", "0.95", "--json"]
    assert evaluate(tmp_path, PREDICTIONS, *arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["mAP"] == [1.0, 0.0]
    assert result["average_mAP"] == 0.5
    assert result["AP_per_class"] == {"x": [1.0, 0.0]}
    assert result["recall_top_kx"] == [[1.0, 1.0], [0.0, 0.0]]
    assert (result["n_ground_truth"], result["n_ground_truth_dropped"], result["n_predictions"]) == (1, 1, 1)
    assert result["protocol"]["name"] == "opentad"
    assert result["protocol"]["merge_duplicates"] is True


def test_protocols_count_a_zero_length_ground_truth_differently(tmp_path: Path, capsys: Any) -> None:
    for protocol, expected in (("activitynet", 0.5), ("actionformer", 1.0), ("opentad", 1.0)):
        assert evaluate(tmp_path, PREDICTIONS, "--protocol", protocol, "--subset", "Test", "--thresholds", ".5") == 0
        assert f"mAP             {expected:7.4f}" in capsys.readouterr().out


def test_text_with_classes(tmp_path: Path, capsys: Any) -> None:
    assert evaluate(tmp_path, PREDICTIONS, "--protocol", "actionformer", "--subset", "test", "--per-class") == 0
    text = capsys.readouterr().out
    assert "   0.30   0.40   0.50   0.60   0.70    mean" in text
    assert text.splitlines()[-2].split() == ["x", *["1.0000"] * 6]
    assert "protocol actionformer: 1 ground truths of 1 videos (1 dropped)" in text


def test_bare_mappings_are_read(tmp_path: Path, capsys: Any) -> None:
    arguments = ["--protocol", "opentad", "--subset", "test", "--json"]
    assert evaluate(tmp_path, PREDICTIONS["results"], *arguments, truth=TRUTH["database"]) == 0
    assert json.loads(capsys.readouterr().out)["average_mAP"] == 1.0


def test_official_default_subset(tmp_path: Path, capsys: Any) -> None:
    predictions = {"results": {"a": [{"segment": [0, 10], "label": "x", "score": 1}]}}
    assert evaluate(tmp_path, predictions, "--protocol", "activitynet", "--json") == 0
    assert json.loads(capsys.readouterr().out)["n_videos"] == 1


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, ["--protocol", "opentad"], "annotated subsets: Test, Validation; choose one with --subset"),
        ({}, ["--protocol", "opentad", "--subset", "val"], "subset 'val' has no annotation"),
        ({}, ["--protocol", "opentad", "--subset", "testing"], "subset 'testing' has no annotation"),
        ({"label": "z"}, ["--protocol", "opentad", "--subset", "test"], "no predicted label occurs"),
        ({"segment": [0]}, ["--protocol", "opentad", "--subset", "test"], "video 'b', prediction 1: segment must be"),
        ({"score": "high"}, ["--protocol", "opentad", "--subset", "test"], "prediction 1: segment must be"),
        ({"score": float("nan")}, ["--protocol", "opentad", "--subset", "test"], "prediction 1: segment must be"),
        ({"label": None}, ["--protocol", "epic", "--subset", "test"], "no predicted label occurs"),
    ],
)
def test_bad_input_is_an_error_not_nan(
    change: dict, arguments: list[str], message: str, tmp_path: Path, capsys: Any
) -> None:
    entry = {**PREDICTIONS["results"]["b"][0], **change}
    assert evaluate(tmp_path, {"results": {"b": [entry]}}, *arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("predictions", "truth", "message"),
    [
        ({"results": {"v_b": PREDICTIONS["results"]["b"]}}, TRUTH, "no predicted video occurs"),
        ({"results": {"b": {}}}, TRUTH, "video 'b': expected a list of predictions"),
        ([], TRUTH, "p.json: expected"),
        (PREDICTIONS, {"database": {}}, "subset 'test' has no annotation; annotated subsets: none"),
        (PREDICTIONS, {"database": {"b": 3}}, "video 'b': expected an object with a list of annotations"),
        (PREDICTIONS, [{"video_id": "b"}], "start_timestamp None is not HH:MM:SS"),
        (
            {"results": {"b": [{"segment": [5, 5], "label": "y", "score": 1}]}},
            {"database": {"b": {"subset": "test", "annotations": [{"segment": [5, 5], "label": "y"}]}}},
            "none of 1 ground truths has a length that protocol opentad counts",
        ),
    ],
)
def test_bad_files(predictions: Any, truth: Any, message: str, tmp_path: Path, capsys: Any) -> None:
    assert evaluate(tmp_path, predictions, "--protocol", "opentad", "--subset", "test", truth=truth) == 1
    assert message in capsys.readouterr().err


def test_a_threshold_must_be_a_tiou(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        evaluate(tmp_path, PREDICTIONS, "--protocol", "opentad", "--thresholds", "50")
    assert stop.value.code == 2


def test_predictions_in_ambiguous_intervals_are_not_counted(tmp_path: Path, capsys: Any) -> None:
    predictions = [[0, 9], [20, 25], [30, 40], [41, 42]]
    results = {"b": [{"segment": times, "label": "x", "score": 0.9 - times[0] / 50} for times in predictions]}
    results["b"][1]["score"] = 1.0  # a false positive before the hit halves the precision
    (tmp_path / "ambiguous.txt").write_text("b 24.5 30\nelsewhere 0 99\n\nb 41 41.5\n")
    common = ["--protocol", "opentad", "--subset", "test", "--thresholds", "0.5", "--json"]
    assert evaluate(tmp_path, {"results": results}, *common) == 0
    plain = json.loads(capsys.readouterr().out)
    assert (plain["average_mAP"], plain["n_predictions_ambiguous"], plain["protocol"]["ambiguous"]) == (0.5, 0, None)
    assert evaluate(tmp_path, {"results": results}, *common, "--ambiguous", str(tmp_path / "ambiguous.txt")) == 0
    without = json.loads(capsys.readouterr().out)
    assert (without["average_mAP"], without["n_predictions"], without["n_predictions_ambiguous"]) == (1.0, 4, 2)
    assert without["protocol"]["ambiguous"]["name"] == "ambiguous.txt"
