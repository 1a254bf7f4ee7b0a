"""mAP and recall of other people's evaluators, reproduced (shared/data/golden/SOURCE.md), by the command line too."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from invert_rl.cli import main

DATA = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"
PROTOCOL = {"activitynet_official": "activitynet", "actionformer": "actionformer", "opentad": "opentad"}
HARD = [
    "perfect",
    "no_predictions_for_one_class",
    "video_without_ground_truth",
    "video_with_empty_prediction_list",
    "duplicate_prediction",
    "duplicate_same_score",
    "tie_right_first_in_file",
    "zero_length_prediction",
    "zero_length_ground_truth",
    "duplicate_ground_truth",
    "exact_threshold_iou_0.5",
    "one_prediction_covers_two_instances",
    "touching_segments",
    "prediction_beyond_duration",
    "label_not_in_ground_truth",
    "negative_and_large_scores",
    "precision_interpolation",
    "all_wrong",
    "no_predictions_at_all",
]


def golden(name: str) -> Any:
    path = DATA / "golden" / name
    if not path.is_file():
        pytest.skip(f"{path.name} is not here: golden numbers of other evaluators")
    return json.loads(path.read_text())


def evaluate(tmp_path: Path, capsys: Any, truth: Any, predictions: Any, *arguments: str) -> tuple[int, Any]:
    """Exit code and the printed object, or the error's text."""
    (tmp_path / "g.json").write_text(json.dumps(truth))
    (tmp_path / "p.json").write_text(json.dumps(predictions))
    files = ["--predictions", str(tmp_path / "p.json"), "--ground-truth", str(tmp_path / "g.json")]
    code = main(["evaluate-detection", *files, "--json", *arguments])
    out = capsys.readouterr()
    return code, json.loads(out.out) if code == 0 else out.err


def run_case(tmp_path: Path, capsys: Any, case: Any, oracle: str) -> tuple[int, Any]:
    thresholds = ["--thresholds", *map(str, case["tiou_thresholds"])]
    protocol = ["--protocol", PROTOCOL[oracle]]
    truth, predictions = {"database": case["ground_truth"]}, {"results": case["predictions"]}
    return evaluate(tmp_path, capsys, truth, predictions, *protocol, *thresholds)


def check(result: Any, expected: Any) -> None:
    assert result["mAP"] == pytest.approx(expected["mAP"], abs=1e-12)
    assert result["average_mAP"] == pytest.approx(expected["average_mAP"], abs=1e-12)
    assert result["AP_per_class"].keys() == expected["AP_per_class"].keys()
    for label, values in expected["AP_per_class"].items():
        assert result["AP_per_class"][label] == pytest.approx(values, abs=1e-12), label
    if "recall_top1x_top5x" in expected:
        assert np.array(result["recall_top_kx"]) == pytest.approx(np.array(expected["recall_top1x_top5x"]), abs=1e-12)


@pytest.mark.parametrize("oracle", PROTOCOL)
@pytest.mark.parametrize("name", ["thumos14_unique_scores", "anet13_unique_scores"])
def test_real_ground_truth(name: str, oracle: str, tmp_path: Path, capsys: Any) -> None:
    case = golden(f"{name}.json")
    code, result = run_case(tmp_path, capsys, case, oracle)
    assert code == 0
    check(result, case["expected"][oracle])


@pytest.mark.parametrize("oracle", PROTOCOL)
@pytest.mark.parametrize("name", HARD)
def test_hard_cases(name: str, oracle: str, tmp_path: Path, capsys: Any) -> None:
    case = golden("tal_hard_cases.json")[name]
    code, result = run_case(tmp_path, capsys, case, oracle)
    expected = case["expected"][oracle]
    if "error" in expected:
        assert code == 1
        assert "'zzz'" in result
    else:
        check(result, expected)


def test_every_hard_case_is_tested() -> None:
    assert sorted(golden("tal_hard_cases.json")) == sorted(HARD)


@pytest.mark.parametrize("ties", ["first", "last"])
def test_tied_scores_stay_in_the_range_of_the_official_evaluator(ties: str, tmp_path: Path, capsys: Any) -> None:
    case = golden("thumos14_tied_scores.json")
    thresholds = ["--thresholds", *map(str, case["tiou_thresholds"]), "--ties", ties]
    truth, predictions = {"database": case["ground_truth"]}, {"results": case["predictions"]}
    _, result = evaluate(tmp_path, capsys, truth, predictions, "--protocol", "activitynet", *thresholds)
    between = case["expected"]["activitynet_official_tie_order_range"]
    margin = 0.01  # 25 shuffles are not all orders
    assert np.all(np.array(result["mAP"]) >= np.array(between["min"]) - margin)
    assert np.all(np.array(result["mAP"]) <= np.array(between["max"]) + margin)


def test_epic_challenge(tmp_path: Path, capsys: Any) -> None:
    case = golden("epic100_c2.json")
    code, result = evaluate(tmp_path, capsys, case["ground_truth"], case["submission"], "--protocol", "epic")
    assert code == 0
    for label, expected in case["expected"].items():
        assert result[label]["mAP"] == pytest.approx(expected["mAP"], abs=1e-12)
        assert result[label]["average_mAP"] == pytest.approx(expected["average_mAP"], abs=1e-12)
    assert result["mAP"] == result["action"]["mAP"]


def test_epic_csv_and_converted_files_give_the_same(tmp_path: Path, capsys: Any) -> None:
    case = golden("epic100_c2.json")
    table = tmp_path / "validation.csv"
    with table.open("w", newline="") as out:
        writer = csv.DictWriter(out, case["ground_truth"][0])
        writer.writeheader()
        writer.writerows(case["ground_truth"])
    (tmp_path / "p.json").write_text(json.dumps(case["submission"]))
    lengths = tmp_path / "lengths.csv"
    videos = sorted({row["video_id"] for row in case["ground_truth"]})
    lengths.write_text("video_id,duration\n" + "".join(f"{video},100000\n" for video in videos))
    converted = tmp_path / "converted.json"
    convert = ["convert", "epic-kitchens-100", "--annotations", str(table), "--durations", str(lengths)]
    assert main([*convert, "--split", "validation", "--label", "action", "--output", str(converted)]) == 0
    capsys.readouterr()
    for truth in (table, converted):
        files = ["--predictions", str(tmp_path / "p.json"), "--ground-truth", str(truth)]
        assert main(["evaluate-detection", *files, "--protocol", "epic", "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        for label, expected in case["expected"].items():
            assert result[label]["mAP"] == pytest.approx(expected["mAP"], abs=1e-12), (truth.name, label)


@pytest.mark.parametrize("oracle", ["activitynet_official", "opentad"])
def test_official_sample_prediction(oracle: str, tmp_path: Path, capsys: Any) -> None:
    case = golden("anet13_official_sample_prediction.json")
    folder = DATA / "activitynet13"
    annotations = json.loads(gzip.decompress((folder / "anet_anno_action.json.gz").read_bytes()))
    text = gzip.decompress((folder / "video_info_new.csv.gz").read_bytes()).decode()
    subset = {row["video"]: row["subset"] for row in csv.DictReader(text.splitlines())}
    database = {
        video.removeprefix("v_"): {"subset": subset[video], "annotations": record["annotations"]}
        for video, record in annotations.items()
        if subset[video] == "validation"
    }
    assert len(database) == 4728
    (tmp_path / "g.json").write_text(json.dumps({"database": database}))
    predictions = folder / "sample_detection_prediction.json.gz"
    files = ["--predictions", str(predictions), "--ground-truth", str(tmp_path / "g.json")]
    arguments = [*files, "--protocol", PROTOCOL[oracle], "--thresholds", "0.5", "0.75", "0.95", "--json"]
    found = {}
    for ties in ("first", "last"):
        assert main(["evaluate-detection", *arguments, "--ties", ties]) == 0
        found[ties] = json.loads(capsys.readouterr().out)["average_mAP"]
    # All scores are 1, so only the order counts; the oracle's unstable sort lies between the two stable ones.
    assert found["last"] < case["expected"][oracle]["average_mAP"] < found["first"] < found["last"] + 0.006
