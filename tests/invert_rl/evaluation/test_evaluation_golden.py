"""Numbers of other people's evaluators, reproduced to the digits they print (shared/data/golden/SOURCE.md)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.rows import Row
from invert_rl.cli import main
from invert_rl.evaluation.scores.grounding import best_ious, grounding_metrics, paired_iou
from invert_rl.evaluation.scores.qvhighlights import highlight_brief, highlight_metrics, moment_metrics

DATA = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"
LEVELS = ("HL-min-Fair", "HL-min-Good", "HL-min-VeryGood")


def golden(name: str) -> Any:
    path = DATA / "golden" / name
    if not path.is_file():
        pytest.skip(f"{path.name} is not here: golden numbers of other evaluators")
    return json.loads(path.read_text())


def grounding_case(name: str) -> tuple[list[list], list[Row], dict]:
    """Ranked windows, rows and expected numbers; rows are made as they are, windows past the video's end included."""
    case = golden(name)
    rows = [Row(r["id"], r["video"], r["duration"], r["query"], (tuple(r["gt"]),)) for r in case["rows"]]
    return [r["ranked"] for r in case["rows"]], rows, case["expected"]


GROUNDING = ("tvg_charades_sta.json", "tvg_activitynet_captions.json")


@pytest.mark.parametrize("name", GROUNDING)
def test_equals_vslnet_and_videochat_r1(name: str) -> None:
    predicted, rows, expected = grounding_case(name)
    for oracle in ("vslnet", "videochat_r1_calc_iou"):
        assert best_ious(predicted, rows).tolist() == expected[oracle]["per_query_iou"]
    metrics = grounding_metrics(predicted, rows)
    for metric in ("mIoU", "R1@0.3", "R1@0.5", "R1@0.7"):
        assert metrics[metric] == pytest.approx(expected["vslnet"][metric], abs=1e-9)
    for threshold, value in expected["moment_detr_r1"].items():
        assert metrics[f"R1@{threshold}"] == pytest.approx(value, abs=0.005)
    assert metrics["n"] == len(rows)


@pytest.mark.parametrize("name", GROUNDING)
def test_strict_equals_2d_tan(name: str) -> None:
    predicted, rows, expected = grounding_case(name)
    metrics = grounding_metrics(predicted, rows, strict=True)
    for metric, value in expected["2d_tan_strict_greater"].items():
        assert metrics[metric] == pytest.approx(value, abs=1e-9)


def test_single_ious() -> None:
    for case in golden("tvg_iou_micro.json"):
        found = float(paired_iou(np.array(case["pred"], float), np.array(case["gt"], float)))
        for oracle, value in case["iou"].items():
            assert found == pytest.approx(value, abs=1e-12), (case["name"], oracle)


@pytest.mark.parametrize("name", GROUNDING)
def test_command_gives_the_golden_numbers(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predicted, rows, expected = grounding_case(name)
    data, answers = tmp_path / "d.jsonl", tmp_path / "p.jsonl"
    records = [
        # some of these windows end after the video: the row format does not allow that, so the video is made longer
        {**vars(row), "windows": [list(row.window)], "duration": max(row.duration, row.window[1])}
        for row in rows
    ]
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    lines = [{"id": row.id, "task": "tvg", "windows": windows} for row, windows in zip(rows, predicted, strict=True)]
    answers.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    assert main(["evaluate", "--predictions", str(answers), "--data", str(data), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    for metric in ("mIoU", "R1@0.3", "R1@0.5", "R1@0.7"):
        assert result[metric] == pytest.approx(expected["vslnet"][metric], abs=1e-9)
    assert main(["evaluate", "--predictions", str(answers), "--data", str(data), "--json", "--strict"]) == 0
    strict = json.loads(capsys.readouterr().out)
    assert strict["R5@0.7"] == pytest.approx(expected["2d_tan_strict_greater"]["R5@0.7"], abs=1e-9)
    assert strict["protocol"]["scoring"]["comparison"] == ">"


def qvhighlights(ground_truth: list[dict], submission: list[dict]) -> dict[str, Any]:
    """Everything that moment_detr's evaluator prints, from its own formats."""
    answer = {record["qid"]: record for record in submission}
    used = [answer[truth["qid"]] for truth in ground_truth]
    windows = [[tuple(window[:2]) for window in record["pred_relevant_windows"]] for record in used]
    scores = [[window[2] for window in record["pred_relevant_windows"]] for record in used]
    metrics = moment_metrics(windows, scores, [truth["relevant_windows"] for truth in ground_truth])
    if "pred_saliency_scores" in used[0]:
        highlights = highlight_metrics(
            [record["pred_saliency_scores"] for record in used],
            [truth["relevant_clip_ids"] for truth in ground_truth],
            [truth["saliency_scores"] for truth in ground_truth],
            [truth["duration"] for truth in ground_truth],
        )
        metrics = {**metrics, **highlights, "brief": {**metrics["brief"], **highlight_brief(highlights)}}
    return metrics


def test_qvhighlights_seeded() -> None:
    case = golden("qvh_seeded.json")
    found = qvhighlights(case["ground_truth"], case["submission"])
    assert {name: found[name] for name in case["expected"]} == case["expected"]


def test_qvhighlights_hard_cases() -> None:
    for name, case in golden("qvh_hard_cases.json").items():
        found, expected = qvhighlights(case["ground_truth"], case["submission"]), case["expected"]
        for metric in ("MR-mAP", "MR-R1"):
            assert found["full"][metric] == expected[metric], (name, metric)
            for length in ("short", "middle", "long"):
                if length in expected:
                    assert found[length][metric] == expected[length][metric], (name, length, metric)


def test_qvhighlights_published_files(capsys: pytest.CaptureFixture[str]) -> None:
    case = golden("qvh_full_val_sample_preds.json")
    truth, answers = (DATA / f"{case['inputs'][name]}.gz" for name in ("gt", "pred"))
    assert main(["evaluate", "--predictions", str(answers), "--data", str(truth), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {name: result["moment_detr"][name] for name in case["expected"]} == case["expected"]
    with gzip.open(truth, "rt") as lines:
        windows = sum(len(json.loads(line)["relevant_windows"]) for line in lines)
    assert (result["n"], result["per_window"]["n"]) == (1550, windows)
    assert result["per_window"]["R1@0.5"] < result["R1@0.5"]
