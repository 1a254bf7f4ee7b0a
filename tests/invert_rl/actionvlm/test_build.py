"""Arguments to model, optimizer groups and steps; whole videos in windows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from data_prep.errors import DataError
from invert_rl.actionvlm.build import detector_config, parameter_groups
from invert_rl.actionvlm.data import read_data, with_shuffled_labels
from invert_rl.actionvlm.experiment import bias_report, shipped
from invert_rl.actionvlm.metrics import GROUPS, read_groups
from invert_rl.actionvlm.predict import detect_video
from invert_rl.actionvlm.prompt import DESCRIPTIONS
from invert_rl.tal.data import window_of
from invert_rl.tal.points import EPIC_RANGES, RANGES
from tests.invert_rl.actionvlm.small import arguments, experiment, few_videos


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
    data = few_videos(tmp_path)
    other = with_shuffled_labels(data, seed=0)
    before, after = (torch.cat([video.labels for video in part.train]) for part in (data, other))
    assert sorted(before.tolist()) == sorted(after.tolist())
    assert not torch.equal(before, after)
    assert [len(video.labels) for video in data.train] == [len(video.labels) for video in other.train]
    assert other.test is data.test


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
    with pytest.raises(DataError, match="easy"):
        read_groups(GROUPS / "thumos14.json", ["Billiards", "FrisbeeCatch"])
