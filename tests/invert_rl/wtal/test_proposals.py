"""Proposals by hand, and what the evaluator does with ambiguous intervals and rounded ground truth."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.errors import DataError
from invert_rl.evaluation.detection.ambiguous import read_ambiguous
from invert_rl.tal.planted import PlantedSettings, plant
from invert_rl.wtal.data import from_planted, snippet_grid
from invert_rl.wtal.evaluate import (
    EvaluationRules,
    detect_videos,
    score,
)
from invert_rl.wtal.proposals import ProposalSettings, contrast, propose, runs, video_scores
from tests.invert_rl.wtal import small

DATA = from_planted(plant(PlantedSettings(train_videos=3, test_videos=3)))


def test_runs() -> None:
    assert runs(np.array([1, 1, 0, 1, 0, 0, 1], dtype=bool)) == [(0, 2), (3, 4), (6, 7)]
    assert runs(np.zeros(3, dtype=bool)) == []
    assert runs(np.ones(3, dtype=bool)) == [(0, 3)]


def test_contrast_by_hand() -> None:
    scores = np.array([1.0, 2.0, 8.0, 8.0, 8.0, 8.0, 4.0, 0.0])
    assert contrast(scores, 2, 6, 0.25) == pytest.approx(8 - (2 + 4) / 2)  # a quarter of 4: one snippet a side
    assert contrast(scores, 0, 8, 0.25) == pytest.approx(scores.mean())  # nothing is outside
    # three snippets: a quarter is 0.75, the first border is cut down to 1, the last one too
    assert contrast(scores, 2, 5, 0.25) == pytest.approx(8 - 2.0)


def test_video_scores_by_hand() -> None:
    """Ten snippets, one in five pooled: the two largest of each class."""
    scores = torch.zeros(10, 3)
    scores[:3, 0] = torch.tensor([4.0, 2.0, 1.0])
    total = math.exp(3.0) + 2
    assert video_scores(scores, 5).tolist() == pytest.approx([math.exp(3.0) / total, 1 / total], rel=1e-6)


def test_proposals_of_a_video_with_one_plain_action() -> None:
    """Attention 0.95 on rows 4 to 8 and 0.05 elsewhere: all 20 thresholds see the one run."""
    attention = torch.full((20,), 0.05)
    attention[4:9] = 0.95
    cas = torch.zeros(20, 3)
    cas[4:9, 0] = 10.0
    segments, scores, labels = propose(cas, attention, ProposalSettings())
    assert segments.unique(dim=0).tolist() == [[4.0, 9.0]]
    assert labels.unique().tolist() == [0]
    assert len(segments) == 20
    probability = math.exp(9.5) / (math.exp(9.5) + 2)
    assert scores[0].item() == pytest.approx(9.5 - 0 + 0.2 * probability, rel=1e-5)
    # copies of the best have IoU 1: each further one is multiplied by exp(-1 / 0.3) once more
    assert scores[1].item() == pytest.approx(scores[0].item() * math.exp(-1 / 0.3), rel=1e-4)
    assert len(propose(cas, attention, ProposalSettings(most=3))[0]) == 3


def test_classes_by_threshold_or_the_best_one() -> None:
    attention = torch.full((10,), 0.5)
    cas = torch.zeros(10, 3)
    cas[:, 0], cas[:, 1] = 4.0, 3.5
    assert set(propose(cas, attention, ProposalSettings())[2].tolist()) == {0, 1}
    assert set(propose(cas, attention, ProposalSettings(class_threshold=0.99))[2].tolist()) == {0}


def test_single_snippets_are_no_proposals() -> None:
    attention = torch.tensor([0.0, 0.95, 0.0, 0.0])
    cas = torch.zeros(4, 2)
    assert len(propose(cas, attention, ProposalSettings())[0]) == 0
    assert len(propose(cas, attention, ProposalSettings(shortest=1))[0]) == 20


def test_detections_are_seconds_of_whole_snippets_and_the_mode_is_kept() -> None:
    model = small.model(reconstruction=False).train()
    data = from_planted(plant(PlantedSettings(train_videos=2, test_videos=3, width=small.RGB, second_width=small.FLOW)))
    results = detect_videos(model, data.test, ["a", "b", "c"], ProposalSettings())
    assert model.training
    assert set(results) == {video.video for video in data.test}
    for video in data.test:
        for entry in results[video.video]:
            assert 0 <= entry["segment"][0] < entry["segment"][1] <= video.duration
            rows = np.array(entry["segment"]) * 25 / 16
            assert np.abs(rows - rows.round()).max() < 1e-6


def truth() -> dict[str, list[dict]]:
    """The ground truth of the test videos as perfect detections."""
    return {
        video.video: [
            {"segment": list(entry["segment"]), "label": entry["label"], "score": 1.0}
            for entry in DATA.database[video.video]["annotations"]
        ]
        for video in DATA.test
    }


def test_perfect_detections_have_a_map_of_one() -> None:
    found = score(DATA, truth(), EvaluationRules())
    assert found.pop("n") == sum(map(len, truth().values()))
    assert list(found) == ["average_mAP", *(f"mAP@0.{digit}" for digit in range(1, 8))]
    assert set(found.values()) == {1.0}


def test_ambiguous_intervals_remove_detections_only_when_asked_for() -> None:
    video = DATA.test[0].video
    end = truth()[video][0]["segment"][1]
    found = [score(DATA, truth(), EvaluationRules(ambiguous=spans))["average_mAP"] for spans in ({}, None)]
    assert found == [1, 1]
    touched = {video: [(end - 0.6, end + 5.0)]}
    assert score(DATA, truth(), EvaluationRules(ambiguous=touched))["average_mAP"] < 1
    beside = {video: [(end + 0.01, end + 0.4)]}  # rounds to no snippet of the detection
    assert score(DATA, truth(), EvaluationRules(ambiguous=beside))["average_mAP"] == 1


def test_rounding_of_the_ground_truth_is_the_evaluators() -> None:
    """round(t * 25 / 16) of times that are no borders of snippets, for DELU's protocol alone."""
    database = {name: {**record, "annotations": []} for name, record in DATA.database.items()}
    name = DATA.test[0].video
    database[name]["annotations"] = [{"segment": [1.0, 3.3], "label": "bow"}]
    data = type(DATA)(DATA.classes, DATA.train, DATA.test, database, DATA.test_subset)
    borders = [round(1.0 * 25 / 16) * 16 / 25, round(3.3 * 25 / 16) * 16 / 25]
    exact = {name: [{"segment": borders, "label": "bow", "score": 1.0}]}
    assert score(data, exact, EvaluationRules((0.99,)))["average_mAP"] == 1
    assert score(data, exact, EvaluationRules((0.99,), "activitynet"))["average_mAP"] == 0


def test_the_published_list_of_ambiguous_intervals_is_read(tmp_path: Path) -> None:
    path = tmp_path / "Ambiguous_test.txt"
    path.write_text("video_test_0000278  0.0 1.4\nvideo_test_0000278  95.7 97.2\n\nvideo_test_0000405  15.7 18.4\n")
    assert read_ambiguous(path) == {
        "video_test_0000278": [(0.0, 1.4), (95.7, 97.2)],
        "video_test_0000405": [(15.7, 18.4)],
    }
    path.write_text("video_test_0000278 0.0\n")
    with pytest.raises(DataError, match="Ambiguous_test.txt:1: expected 'video start end'"):
        read_ambiguous(path)
    with pytest.raises(DataError, match="no such file"):
        read_ambiguous(tmp_path / "none.txt")


def test_the_grid_is_the_fields() -> None:
    grid = snippet_grid()
    assert grid.row(16.0) == 25.0
    assert grid.seconds(25.0) == 16.0
