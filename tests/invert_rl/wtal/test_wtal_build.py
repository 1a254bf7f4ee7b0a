"""From settings to numbers: texts of classes and videos, evaluation rules, switches of the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from data_prep.errors import DataError
from invert_rl.wtal.build import (
    build_model,
    encode_semantics,
    evaluation_rules,
    load_data,
    load_descriptions,
    planted_world,
)
from invert_rl.wtal.config import WtalArguments
from invert_rl.wtal.descriptions import KINDS
from invert_rl.wtal.text import encode_texts
from tests.invert_rl.wtal import wtal_runs


def arguments(folder: Path, **settings: object) -> WtalArguments:
    """Settings of short runs."""
    return WtalArguments(output_dir=str(folder), **{**wtal_runs.SETTINGS, **settings})


def test_texts_of_videos_make_class_vectors_and_sentences(tmp_path: Path) -> None:
    data = load_data(arguments(tmp_path))
    names = ("bow", "clap", "jump", "wave")
    content = {"classes": {name: {kind: f"{kind} {name}" for kind in KINDS} for name in names}}
    bows = [video.video for video in data.train if video.labels[0]]
    assert 2 <= len(bows) < len(data.train)
    content["videos"] = {
        video: {"key": f"low {place}", "complete": f"slow {place}"} for place, video in enumerate(bows)
    }
    path = tmp_path / "d.json"
    path.write_text(json.dumps(content))
    args = arguments(tmp_path, descriptions=str(path))
    found = encode_semantics(args, data, load_descriptions(args, data))
    own = encode_texts([f"low {place}" for place in range(len(bows))])
    assert torch.allclose(found.classes[0], F.normalize(own.mean(dim=0), dim=0), atol=1e-6)
    untouched = [i for i in range(1, 4) if not any(v.labels[i] for v in data.train if v.video in bows)]
    for index in untouched:
        assert torch.allclose(found.classes[index], encode_texts([f"key {names[index]}"])[0], atol=1e-6)
    for video, sentence in zip(data.train, found.sentences, strict=True):
        words = [found.vocabulary.words[word - 1] for word in sentence]
        if video.video in bows:
            assert words == ["slow", str(bows.index(video.video))]
        else:
            assert words == [w for i in torch.nonzero(video.labels)[:, 0] for w in ("complete", names[i])]
    assert torch.equal(found.words[0], torch.zeros(found.words.shape[1]))
    assert torch.allclose(found.words[1:], encode_texts(found.vocabulary.words))


def test_switches_are_one_override_each(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    data = load_data(args)
    semantics = encode_semantics(args, data, load_descriptions(args, data))
    for matching in (True, False):
        for reconstruction in (True, False):
            args = arguments(tmp_path, matching=matching, reconstruction=reconstruction, distill=False, mu1=0.5)
            model = build_model(args, semantics)
            assert (model.matching is not None, model.reconstruction is not None) == (matching, reconstruction)
            assert (model.weights.distill, model.weights.mu1) == (False, 0.5)


def test_the_same_seed_builds_the_same_base_with_and_without_branches(tmp_path: Path) -> None:
    """So that differences between the rows of an ablation are not those of their starts."""
    args = arguments(tmp_path)
    data = load_data(args)
    semantics = encode_semantics(args, data, load_descriptions(args, data))
    torch.manual_seed(1)
    full = build_model(args, semantics)
    torch.manual_seed(1)
    base = build_model(arguments(tmp_path, matching=False, reconstruction=False), semantics)
    for name, value in base.base.state_dict().items():
        assert torch.equal(value, full.base.state_dict()[name])


def test_evaluation_rules_come_from_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "ambiguous.txt"
    path.write_text("v1 0.0 1.5\n")
    rules = evaluation_rules(arguments(tmp_path, ambiguous=str(path), round_truth=True, thresholds=[0.5]))
    assert rules.ambiguous == {"v1": [(0.0, 1.5)]}
    assert (rules.thresholds, rules.protocol) == ((0.5,), "delu")
    assert evaluation_rules(arguments(tmp_path, round_truth=False)).protocol == "activitynet"
    assert evaluation_rules(arguments(tmp_path)).ambiguous is None


def test_descriptions_must_know_every_class(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"bow": {"key": "a", "complete": "b"}}))
    args = arguments(tmp_path, descriptions=str(path))
    with pytest.raises(DataError, match="no description of 'clap', 'jump', 'wave'"):
        load_descriptions(args, load_data(args))
    assert load_descriptions(arguments(tmp_path, descriptions=None), load_data(args)).source == "class names"


def test_texts_of_generated_videos_say_what_happens_when(tmp_path: Path) -> None:
    args = WtalArguments(
        output_dir=str(tmp_path),
        descriptions="planted_videos",
        rgb_width=8,
        flow_width=8,
        planted_train=6,
        use_cpu=True,
    )
    world = planted_world(args)
    texts = load_descriptions(args, load_data(args))
    video = next(video for video in world.videos if len(video.labels) == 2)
    text = texts.complete_text(video.video, [])
    first, second = text.split(", then ")
    for part, (start, end), label in zip((first, second), video.segments.tolist(), video.labels.tolist(), strict=True):
        third = (start + end) / 2 / len(video.features) * 3
        when = "at the start" if third < 1 else "in the middle" if third < 2 else "near the end"
        assert part.startswith(when) and f"a {world.classes[label]} " in part
        assert part.endswith("briefly" if end - start < 9 else "for long")
    with pytest.raises(DataError, match="of generated videos"):
        WtalArguments(
            output_dir=str(tmp_path), descriptions="planted_videos", annotations="a", features="f", use_cpu=True
        )
