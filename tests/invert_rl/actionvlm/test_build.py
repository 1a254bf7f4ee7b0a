"""Arguments to model, optimizer groups and steps; whole videos in windows."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep.errors import DataError
from invert_rl.actionvlm.build import detector_config, parameter_groups
from invert_rl.actionvlm.data import read_data
from invert_rl.actionvlm.experiment import bias_report, shipped
from invert_rl.actionvlm.metrics import GROUPS, read_groups
from invert_rl.actionvlm.planted import WORLD, course_world, planted_data, trivial
from invert_rl.actionvlm.predict import detect_video
from invert_rl.actionvlm.prompt import DESCRIPTIONS
from invert_rl.tal.data import window_of
from invert_rl.tal.points import EPIC_RANGES, RANGES
from tests.invert_rl.actionvlm.small import arguments, experiment


def test_every_trained_weight_is_in_one_group_with_the_rate_of_its_part(tmp_path):
    run = experiment(tmp_path, llm_learning_rate=5e-6, llm_weight_decay=0.01, lora_rank=4)
    groups = parameter_groups(run.model, run.args)
    found = {id(value): (group["lr"], group["weight_decay"]) for group in groups for value in group["params"]}
    trained = {name: value for name, value in run.model.named_parameters() if value.requires_grad}
    assert len(found) == len(trained) == sum(len(group["params"]) for group in groups)
    rates = {name: found[id(value)] for name, value in trained.items()}
    lora = next(name for name in rates if "lora_A" in name)
    assert rates[lora] == (5e-6, 0.01)
    assert rates["projection.weight"] == rates["advantage.weight"] == (1e-3, 0.05)
    for name in ("advantage.bias", "language.special", "language_norm.weight", "detector.scales"):
        assert rates[name] == (1e-3, 0.0), name
    scales = [name for name in rates if name.endswith("attention_path.scale")]
    assert scales and all(rates[name][1] == 0.0 for name in scales)


def test_without_steps_the_epochs_count(tmp_path):
    run = experiment(tmp_path, max_steps=-1, num_train_epochs=7)
    assert run.args.max_steps == 7 * 2  # 8 videos, 4 at a time


def test_fewer_levels_keep_the_last_range_open(tmp_path):
    config = detector_config(arguments(tmp_path, head_levels=3), 4, 32)
    assert config.ranges == (RANGES[0], RANGES[1], (8, 10000))
    whole = arguments(tmp_path, head_levels=6, regression_ranges="epic", nms_sigma=0.4)
    assert detector_config(whole, 4, 32).ranges == EPIC_RANGES
    assert detector_config(whole, 4, 32).suppression.sigma == 0.4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 66}, "multiple of 4"),
        ({"video_root": "videos"}, "vision_model"),
        ({"fixed_lambda": 1.5}, "fixed_lambda"),
        ({"answer_style": "descriptions", "descriptions": None}, "needs descriptions"),
        ({"alternate": False}, "advantage_weight to 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **changes)


def test_data_that_is_not_there_is_refused(tmp_path):
    notes = tmp_path / "notes.json"
    entry = {"segment": [0, 1], "label": "dim"}
    notes.write_text(json.dumps({"database": {"a": {"subset": "test", "duration": 9, "annotations": [entry]}}}))
    with pytest.raises(DataError, match="needs either"):
        read_data(arguments(tmp_path, train_annotations=str(notes)), 0)
    given = {"train_annotations": str(notes), "features": str(tmp_path)}
    with pytest.raises(DataError, match="not one of"):
        read_data(arguments(tmp_path, **given, feature_layout="none"), 0)
    with pytest.raises(DataError, match="no annotated video in subset 'validation'"):
        read_data(arguments(tmp_path, **given), 0)


def test_shuffled_labels_are_the_same_labels_elsewhere(tmp_path):
    small = replace(WORLD, train_videos=8, test_videos=3)
    data, other = (planted_data(tmp_path / str(shuffled), 0, shuffled, small) for shuffled in (False, True))
    before, after = (torch.cat([video.labels for video in part.train]) for part in (data, other))
    assert sorted(before.tolist()) == sorted(after.tolist())
    assert not torch.equal(before, after)
    assert [len(video.labels) for video in data.train] == [len(video.labels) for video in other.train]
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(data.test, other.test, strict=True))


def test_the_generated_world_is_no_matter_of_single_rows(tmp_path):
    """Rules of single rows are far from right, on three worlds, and windows nearer; twins look alike."""
    for seed in range(3):
        data = planted_data(tmp_path / str(seed), seed, settings=replace(WORLD, train_videos=48, test_videos=24))
        found = trivial(data, "actionformer", None)
        rows = max(value for rule, value in found["rules"].items() if "class mean" in rule)
        assert 0.2 < rows < 0.7 < found["average_mAP"] < 0.9, found["rules"]
        assert found["rule"] == "neighbours, smoothed"
        assert found["rules"]["nearest class mean of vision"] < found["rules"]["nearest class mean"]
        assert found["average_mAP"] == max(found["rules"].values())


def test_what_the_generated_world_shows():
    world = course_world(replace(WORLD, train_videos=100, test_videos=0, strength=100.0, second_strength=100.0))
    shown = {label: [] for label in range(4)}
    first, last, background = [], [], 0
    for video in world.videos:
        active = np.linalg.norm(video.features, axis=1) > 50
        inside = np.zeros(len(active), dtype=bool)
        for (start, end), label in zip(video.segments, video.labels, strict=True):
            assert active[start:end].all()
            inside[start:end] = True
            shown[label].append(video.features[(start + end) // 2] / 100)
            first.append(video.features[start] / 100)
            last.append(video.features[end - 1] / 100)
        background += int(active[~inside].sum())
    looks = {label: np.mean(rows, axis=0) for label, rows in shown.items()}
    assert np.abs(looks[0] - looks[1]).max() < 0.05  # the twins
    assert np.abs(looks[0] - looks[2]).max() > 0.1
    assert np.std(first, axis=0).max() < 0.05 and np.std(last, axis=0).max() < 0.05  # the same for all classes
    assert background > 1000  # as much as action


def test_windows_of_a_video_are_put_together(tmp_path):
    run = experiment(tmp_path, window=16)
    video = run.data.test[0]
    rows = len(video.features)
    with torch.no_grad():
        run.model.advantage.weight.normal_()
        run.model.detector.classifier.last.conv.bias.zero_()  # scores that pass
    found = detect_video(run.model, run.data, video, 16, 0.5)
    assert found.weight.shape == (rows,)
    assert float(found.segments[:, 1].max()) > 16
    first, second = (window_of(video, start, 16) for start in (0, 8))
    batch, mask = run.data.batch([first, second], 16)
    with torch.no_grad():
        weight = run.model.features(batch, mask).weight
    torch.testing.assert_close(found.weight[:8], weight[0, :8], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.weight[8:16], (weight[0, 8:] + weight[1, :8]) / 2, atol=1e-5, rtol=1e-4)


def test_exchanged_descriptions_are_used_once_and_taken_back(tmp_path):
    run = experiment(tmp_path)
    own = run.model.language.prompt
    report = bias_report(run, 0.5)
    assert run.model.language.prompt is own
    assert report["LAP"] == pytest.approx((0.5 - report["conflict/average_mAP"]) / 0.5)
    names_alone = replace(run, descriptions=None)
    assert bias_report(names_alone, 0.5) == {}


def test_a_bare_name_means_a_shipped_file(tmp_path):
    assert shipped("thumos14", DESCRIPTIONS) == DESCRIPTIONS / "thumos14.json"
    assert shipped(str(tmp_path / "own.json"), DESCRIPTIONS) == tmp_path / "own.json"
    classes = list(json.loads((DESCRIPTIONS / "thumos14.json").read_text()))
    groups = read_groups(shipped("thumos14", GROUPS), classes)
    assert sorted(name for names in groups.values() for name in names) == sorted(classes)
    one_of_each = [names[0] for names in groups.values()]  # a part of the data set's classes
    assert read_groups(GROUPS / "thumos14.json", one_of_each) == {group: [names[0]] for group, names in groups.items()}
    with pytest.raises(DataError, match="group '(easy|medium|hard)' has none of the 1 classes"):
        read_groups(GROUPS / "thumos14.json", one_of_each[:1])
