"""LAP, mLA, hallucination rates and ambiguity against values worked out by hand."""

from __future__ import annotations

import json

import pytest
import torch

from data_prep.errors import DataError
from invert_rl.actionvlm.metrics import (
    AmbiguousClip,
    ambiguity,
    hallucination_rates,
    lap,
    mean_weights,
    read_ambiguous_clips,
    read_proposals,
)
from invert_rl.tal.data import Video
from invert_rl.tal.grid import Grid


def test_lap_is_the_share_that_is_lost():
    assert lap(0.72, 0.7013) == pytest.approx(0.026, abs=1e-3)  # 2.6 in table 2
    assert lap(0.5, 0.6) == pytest.approx(-0.2)
    assert lap(0.0, 0.1) == 0.0


def test_mean_weights_are_over_the_frames_of_each_class():
    grid = Grid(30.0, 4.0, 16.0)
    first = Video("a", 1.0, grid, torch.zeros(4, 1), torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
    second = Video("b", 1.0, grid, torch.zeros(3, 1), torch.tensor([[2.0, 2.4]]), torch.tensor([1]))
    weights = [torch.tensor([0.2, 0.4, 0.0, 0.1]), torch.tensor([0.1, 0.0, 0.9])]
    means = mean_weights([first, second], weights, 2)
    assert means[0].isnan()
    assert means[1:].tolist() == pytest.approx([0.5, 0.05])


def test_proposals_are_read_back_from_answers():
    text = "Clean And Jerk: 3-10, Dive: 12 - 20, nonsense, Dive: x-3"
    assert read_proposals(text) == [("Clean And Jerk", 3, 10), ("Dive", 12, 20)]


def test_hallucination_rates():
    texts = {
        "a": "Jump: 0-10",
        "b": "Wave: 0-10",  # the borders of a
        "c": "Jump: 1-10, Jump: 1-10, Jump: 1-10",  # endless
        "d": "Jump: 4-9, Jump: 11-12",
        "e": "",
        "f": "I cannot see",  # no borders: nothing fixed about it
    }
    assert hallucination_rates(texts) == {"fixed": pytest.approx(2 / 6), "infinite": pytest.approx(1 / 6)}
    assert hallucination_rates({"e": "", "f": ""}) == {"fixed": 0.0, "infinite": 0.0}
    with pytest.raises(ValueError, match="no answers"):
        hallucination_rates({})


def test_on_ambiguous_clips_the_most_confident_detection_counts_cut_to_the_clip():
    results = {
        "a": [
            {"segment": [0.0, 4.0], "label": "x", "score": 0.9},  # outside the clip
            {"segment": [8.0, 14.0], "label": "x", "score": 0.5},  # 4 of the clip's 10 s
            {"segment": [10.0, 20.0], "label": "y", "score": 0.4},
        ],
        "b": [{"segment": [0.0, 30.0], "label": "x", "score": 0.1}],
    }
    clips = [AmbiguousClip("a", 10.0, 20.0), AmbiguousClip("b", 10.0, 20.0), AmbiguousClip("none", 0.0, 1.0)]
    got = ambiguity(results, clips)
    assert got == {
        "mConf": pytest.approx(0.2),
        "mLen": pytest.approx(1.4 / 3),
        "acc@0.3": pytest.approx(1 / 3),
        "acc@0.5": pytest.approx(2 / 3),
        "acc@0.7": pytest.approx(2 / 3),
    }


def test_clips_are_read_from_a_file_that_says_what_is_wrong(tmp_path):
    path = tmp_path / "clips.json"
    path.write_text(json.dumps([{"video": "a", "segment": [1, 2.5]}]))
    assert read_ambiguous_clips(path) == [AmbiguousClip("a", 1.0, 2.5)]
    for wrong, message in [
        ({}, "expected a list"),
        ([{"video": "a"}], "entry 1"),
        ([{"video": "a", "segment": [2, 1]}], "empty"),
    ]:
        path.write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=message):
            read_ambiguous_clips(path)
