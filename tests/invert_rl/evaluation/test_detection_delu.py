"""DELU's evaluator and proposals, reproduced (shared/data/golden/SOURCE.md), and what whole snippets change."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from invert_rl.cli import main
from invert_rl.evaluation.detection.precision import tiou
from invert_rl.evaluation.detection.protocols import PROTOCOLS, snippets
from invert_rl.wtal.proposals import ProposalSettings, propose
from tests.invert_rl.evaluation.test_detection_golden import golden

SNIPPET = 16 / 25


def write_case(case: Any, folder: Path) -> list[str]:
    """Truth, detections in seconds and ambiguous lines as files, and the arguments that name the first two."""
    database = {
        video["videoname"]: {
            "subset": video["subset"],
            "duration": video["duration"],
            "annotations": [
                {"segment": segment, "label": label}
                for segment, label in zip(video["segments"], video["labels"], strict=True)
            ],
        }
        for video in case["ground_truth"]
    }
    results: dict[str, list[Any]] = {}
    for video, start, end, label, score in case["detections"]:
        segment = [start * SNIPPET, end * SNIPPET]
        results.setdefault(video, []).append({"segment": segment, "label": case["classlist"][label], "score": score})
    (folder / "g.json").write_text(json.dumps({"database": database}))
    (folder / "p.json").write_text(json.dumps({"results": results}))
    (folder / "ambiguous.txt").write_text("\n".join(case["ambiguous_lines"]) + "\n")
    return ["--predictions", str(folder / "p.json"), "--ground-truth", str(folder / "g.json"), "--protocol", "delu"]


@pytest.mark.parametrize("kind", ["all", "ambiguous_removed"])
def test_delus_evaluator(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = golden("delu_eval.json")
    arguments = write_case(case, tmp_path)
    if kind == "ambiguous_removed":
        arguments += ["--ambiguous", str(tmp_path / "ambiguous.txt")]
    levels = [str(level) for level in case["tiou_thresholds"]]
    assert main(["evaluate-detection", *arguments, "--json", "--thresholds", *levels]) == 0
    found, wanted = json.loads(capsys.readouterr().out), case["expected"][kind]
    assert found["mAP"] == pytest.approx(wanted["mAP"], abs=1e-12)
    for label, ap in wanted["AP"].items():
        assert found["AP_per_class"][label] == pytest.approx(ap, abs=1e-12)
    assert found["n_ground_truth"] == wanted["ground_truth"]
    counted = found["n_predictions"] - found["n_predictions_short"] - found["n_predictions_ambiguous"]
    assert counted == wanted["detections"]
    assert main(["evaluate-detection", *arguments, "--json"]) == 0  # the protocol's own thresholds: 0.1 to 0.7
    assert json.loads(capsys.readouterr().out)["average_mAP"] == pytest.approx(wanted["average_01_07"], abs=1e-12)


def test_single_pairs_on_a_threshold() -> None:
    """In whole snippets a pair reaches exactly the thresholds that it does for DELU's evaluator."""
    case = golden("delu_eval.json")
    protocol = PROTOCOLS["delu"]
    for pair in case["pairs"]:
        truth = snippets(np.array(pair["gt_seconds"]), protocol)
        assert truth.tolist() == pair["gt_snippets"]
        found = snippets(np.array(pair["detection"]) * SNIPPET, protocol)
        overlap = float(tiou(found, truth))
        assert [level for level in case["tiou_thresholds"] if overlap >= level] == pair["reaches"]


def test_half_is_half_whatever_the_seconds() -> None:
    """Of two snippets one is hit: 1/2 reaches 0.5, though the same segments in seconds give less."""
    truth, found = np.array([3.0, 5.0]), np.array([3.0, 4.0])
    rounded = [snippets(part * SNIPPET, PROTOCOLS["delu"]) for part in (found, truth)]
    assert float(tiou(*rounded)) == 0.5
    assert snippets(np.array([0.32, 0.96, 1.6]), PROTOCOLS["delu"]).tolist() == [0.0, 2.0, 2.0]  # halves to the even


@pytest.mark.parametrize(("key", "shortest"), [("proposals", 1), ("kept_for_evaluation", 2)])
def test_delus_proposals(key: str, shortest: int) -> None:
    """The same multiset of segments and classes, scores within 1e-5; ``shortest`` counts after the suppression."""
    for video in golden("delu_proposals.json")["videos"]:
        cas, attention = torch.tensor(video["cas"]), torch.tensor(video["attention"])
        segments, scores, labels = propose(cas, attention, ProposalSettings(shortest=shortest))
        rows = zip(segments.tolist(), labels.tolist(), scores.tolist(), strict=True)
        found = sorted([*segment, label, value] for segment, label, value in rows)
        wanted = sorted(video[key])
        assert Counter(tuple(row[:3]) for row in found) == Counter(tuple(row[:3]) for row in wanted), video["video"]
        assert [row[3] for row in found] == pytest.approx([row[3] for row in wanted], abs=1e-5), video["video"]
