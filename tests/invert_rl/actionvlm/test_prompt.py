"""Descriptions, prompts and answers."""

from __future__ import annotations

import json

import pytest
import torch

from data_prep.errors import DataError
from invert_rl.actionvlm.metrics import read_proposals
from invert_rl.actionvlm.prompt import DESCRIPTIONS, answer_text, build_prompt, deranged, read_descriptions
from tests.invert_rl.actionvlm.conftest import CLASSES, TEXTS


def test_a_class_without_a_text_is_described_by_its_name(tmp_path):
    path = tmp_path / "texts.json"
    path.write_text(json.dumps({"bow": "bends", "other": "unused"}))
    assert read_descriptions(path, CLASSES) == {"bow": "bends", "clap": "clap", "jump": "jump"}


@pytest.mark.parametrize("content", [["bow"], {"bow": 3}, {"bow": ""}, {"swim": "moves"}])
def test_descriptions_of_another_form_or_of_other_classes_are_refused(tmp_path, content):
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="texts.json"):
        read_descriptions(path, CLASSES)


def test_no_class_keeps_its_text_when_they_are_exchanged():
    texts = {f"class {n}": f"text {n}" for n in range(20)}
    other = deranged(texts)
    assert sorted(other.values()) == sorted(texts.values())
    assert all(other[name] != texts[name] for name in texts)
    assert other == deranged(dict(reversed(texts.items())))
    with pytest.raises(ValueError, match="one class"):
        deranged({"bow": "bends"})


def test_the_text_stands_on_the_side_of_the_frames_that_is_asked_for(tiny):
    _, tokenizer = tiny
    before = build_prompt(tokenizer, CLASSES, TEXTS, "before")
    after = build_prompt(tokenizer, CLASSES, TEXTS, "after")
    assert "clap: strikes the palms." in tokenizer.decode(before.before)
    assert "strikes" not in tokenizer.decode(before.after)
    assert "clap: strikes the palms." in tokenizer.decode(after.after)
    assert "strikes" not in tokenizer.decode(after.before)
    for prompt in (before, after):
        assert tokenizer.decode(prompt.before).startswith("<|im_start|>system")
        assert tokenizer.decode(prompt.after).endswith("<|im_start|>assistant\n")
    with pytest.raises(ValueError, match="position"):
        build_prompt(tokenizer, CLASSES, TEXTS, "between")


def test_without_descriptions_the_names_alone_are_there(tiny):
    _, tokenizer = tiny
    text = tokenizer.decode(build_prompt(tokenizer, CLASSES, None).before)
    assert "bow, clap, jump" in text
    assert "palms" not in text


def test_answers_list_the_actions_by_start_in_whole_rows():
    segments = torch.tensor([[10.4, 19.6], [-0.5, 3.5], [30.0, 63.5]])
    text = answer_text(segments, torch.tensor([2, 0, 0]), CLASSES, rows=64)
    assert text == "bow: 0-4, jump: 10-20, bow: 30-63"
    assert read_proposals(text) == [("bow", 0, 4), ("jump", 10, 20), ("bow", 30, 63)]
    assert answer_text(segments[:0], torch.tensor([], dtype=torch.long), CLASSES, rows=64) == ""


def test_answers_of_descriptions_have_each_class_once():
    segments = torch.tensor([[10.0, 19.0], [0.0, 3.0], [30.0, 60.0]])
    text = answer_text(segments, torch.tensor([2, 0, 0]), CLASSES, 64, TEXTS)
    assert text == "bow: bends forward\njump: leaves the ground"


def test_the_shipped_descriptions_of_thumos14_are_those_of_its_twenty_classes():
    content = json.loads((DESCRIPTIONS / "thumos14.json").read_text())
    assert len(content) == 20
    assert len(set(content.values())) == 20
    assert {"BaseballPitch", "BasketballDunk", "VolleyballSpiking", "CleanAndJerk"} <= content.keys()
