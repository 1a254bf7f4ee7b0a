"""The training views: equation 4, prior actions, captions and questions, and how they are mixed."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.llavaction.answers.choices import parse_choice
from invert_rl.llavaction.mixture import Mixture
from invert_rl.llavaction.prompts import choice_prompt, time_instruction
from invert_rl.llavaction.questions.mqa import class_labels
from invert_rl.llavaction.reformulated import caption_requests, question_requests, read_reformulated
from invert_rl.llavaction.views import ViewSettings, priors_of, sample_of

OPTIONS = ["take knife", "open door", "cut onion", "wash plate", "close door"]
PRIORS = [
    {"id": "p2", "narration": "open drawer", "offset": 4.5},
    {"id": "p1", "narration": "take fork", "offset": 1.25},
]


def question(start: float = 10.0, end: float = 12.5, duration: float = 60.0, **meta) -> Row:
    meta = {"options": OPTIONS, "answer": "B", "verb_class": 3, "noun_class": 8, "priors": PRIORS, **meta}
    return Row("q", "v.mp4", duration, "open door", ((start, end),), meta=meta)


def test_temporal_detection_is_equation_4():
    """Offsets are uniform, the padding is 3 s in all, and the answer is the action inside the padded clip."""
    shares = []
    for seed in range(400):
        row = question()
        sample = sample_of("temporal", row, np.random.default_rng(seed), ViewSettings())
        first, last = sample.ref.start, sample.ref.end
        assert (last - first) - 2.5 == pytest.approx(3.0)
        assert 7.0 <= first <= 10.0
        start, end = map(float, re.fullmatch(r"(\d+\.\d\d): (\d+\.\d\d)", sample.answer).groups())
        assert first + start == pytest.approx(10.0, abs=0.0051)
        assert first + end == pytest.approx(12.5, abs=0.0051)
        shares.append((10.0 - first) / 3.0)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert np.percentile(shares, [10, 90]) == pytest.approx([0.1, 0.9], abs=0.06)
    assert "contains an action open door that lasts 2.50 seconds." in sample.prompt


def test_temporal_detection_stays_inside_the_video():
    for seed in range(50):
        early = sample_of("temporal", question(0.5, 2.0), np.random.default_rng(seed), ViewSettings())
        late = sample_of("temporal", question(57.0, 59.5), np.random.default_rng(seed), ViewSettings())
        assert early.ref.start >= 0
        assert late.ref.end <= 60.0
        assert float(early.answer.split(": ")[0]) == pytest.approx(0.5 - early.ref.start, abs=0.0051)
    assert any(
        sample_of("temporal", question(0.5, 2.0), np.random.default_rng(s), ViewSettings()).ref.start == 0
        for s in range(20)
    )


def test_thirty_percent_of_the_questions_name_the_actions_before():
    settings = ViewSettings()
    prompts = [sample_of("mqa", question(), np.random.default_rng(seed), settings).prompt for seed in range(3000)]
    named = [prompt for prompt in prompts if "seconds ago" in prompt]
    assert len(named) / len(prompts) == pytest.approx(0.3, abs=0.03)
    assert named[0].startswith(
        "4.50 seconds ago, you started an action open drawer. 1.25 seconds ago, you started an action take fork. What "
        "action are you currently performing? Here are the options of actions you can select:"
    )
    alone = question(priors=[])
    never = [sample_of("mqa", alone, np.random.default_rng(seed), settings).prompt for seed in range(200)]
    assert not any("seconds ago" in prompt for prompt in never)
    assert set(prompts) - set(named) == set(never)


def test_predicted_priors_need_both_texts():
    assert priors_of(question()) == [(4.5, "open drawer"), (1.25, "take fork")]
    assert priors_of(question(), {"p1": "cut onion", "p2": "take knife"}) == [(4.5, "take knife"), (1.25, "cut onion")]
    assert priors_of(question(), {"p1": "cut onion"}) == []
    assert priors_of(question(), {"p1": "cut onion", "p2": ""}) == []


@pytest.mark.parametrize("answer_format", ["letter", "text"])
def test_the_taught_answer_reads_back_as_the_true_option(answer_format):
    sample = sample_of("mqa", question(), np.random.default_rng(0), ViewSettings(answer_format=answer_format))
    assert sample.answer == {"letter": "B. open door", "text": "open door"}[answer_format]
    choice = parse_choice(sample.answer, OPTIONS)
    assert (choice.place, choice.by) == (1, answer_format)


def test_the_question_reads_as_in_the_paper():
    prompt = choice_prompt(OPTIONS)
    assert prompt.splitlines() == [
        "You are seeing this video from egocentric view and you are the person. Your hands are sometimes interacting "
        "with objects. What action are you doing?",
        "Given multiple choices, format your answer briefly such as 'A. move knife'.",
        *("A. take knife", "B. open door", "C. cut onion", "D. wash plate", "E. close door"),
    ]
    assert choice_prompt(OPTIONS, "none").splitlines()[0] == "A. take knife"
    assert time_instruction(2.5, 16).startswith(
        "The provided video lasts for 2.50 seconds, and 16 frames are uniformly"
    )


def test_direct_prediction_and_classes():
    sample = sample_of("direct", question(), np.random.default_rng(0), ViewSettings())
    assert (sample.answer, sample.ref.start, sample.ref.end) == ("open door", 10.0, 12.5)
    assert "Give a short sentence such as 'move knife'" in sample.prompt
    assert class_labels(question(), {"3:8": 17}) == (3, 8, 17)
    assert class_labels(question(), {}) == (3, 8, -1)
    assert class_labels(Row("c", "v.mp4", 9.0, "q", ((0.0, 1.0),)), {"3:8": 17}) == (-1, -1, -1)


def test_captions_and_questions_of_a_file(tmp_path):
    rows = [question(), replace(question(), id="r")]
    lines = [
        {"id": "q", "caption": "I open the door.", "disagree_with_human_annotation": False},
        {"id": "r", "caption": "I close it.", "disagree_with_human_annotation": "true"},
        {"id": "q", "qa": [{"question": "What moves?", "answer": "A door."}, {"question": "Who?", "answer": "I."}]},
    ]
    path = tmp_path / "made.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    made = read_reformulated(path, rows, keep_disagreeing=False)
    assert made.left_out == {"disagrees with the annotation": 1}
    assert len(read_reformulated(path, rows).captions) == 2
    caption = sample_of("caption", made.captions[0], np.random.default_rng(0), ViewSettings())
    assert caption.answer == "I open the door."
    assert not caption.has_class
    pairs = [sample_of("qa", row, np.random.default_rng(0), ViewSettings()) for row in made.questions]
    assert [(pair.prompt, pair.answer) for pair in pairs] == [("What moves?", "A door."), ("Who?", "I.")]
    assert len({row.id for row in [*made.captions, *made.questions, *rows]}) == 5
    for bad, message in (({"id": "x", "caption": "c"}, "id 'x' is none"), ({"id": "q", "qa": [3]}, "list of objects")):
        path.write_text(json.dumps(bad))
        with pytest.raises(DataError, match=f"made.jsonl:1: .*{message}"):
            read_reformulated(path, rows)


def test_other_data_join_by_lines_with_a_clip_of_their_own(tmp_path):
    path = tmp_path / "replay.jsonl"
    line = {"id": "x", "video": "other.mp4", "duration": 9.0, "windows": [[1.0, 4.0]], "caption": "A dog."}
    path.write_text(json.dumps(line))
    (row,) = read_reformulated(path, [question()]).captions
    sample = sample_of("caption", row, np.random.default_rng(0), ViewSettings())
    assert (sample.ref.path, sample.ref.start, sample.ref.end, sample.answer) == ("other.mp4", 1.0, 4.0, "A dog.")
    assert class_labels(row, {}) == (-1, -1, -1)
    path.write_text(json.dumps({**line, "windows": [[1.0, 4.0], [5.0, 6.0]]}))
    with pytest.raises(DataError, match="2 windows"):
        read_reformulated(path, [question()])


def test_requests_have_the_words_of_appendix_b():
    (request,) = caption_requests([question()])
    assert "The true ground-truth action is open door." in request["prompt"]
    assert "The video duration is 2.500 seconds." in request["prompt"]
    assert (request["start"], request["end"], request["frames"]) == (10.0, 12.5, 4)
    captioned = replace(question(), meta={"caption": "I open a door."})
    (ask,) = question_requests([captioned])
    assert ask["prompt"].startswith("Your job is to create 3 question-answer pairs")
    assert ask["prompt"].endswith("I open a door.")


def rows(count: int) -> list[Row]:
    return [replace(question(), id=str(number)) for number in range(count)]


def test_an_epoch_has_each_row_as_often_as_its_weight_says():
    pools = {"mqa": rows(40), "temporal": rows(30), "direct": rows(20), "caption": []}
    mixture = Mixture(pools, {"mqa": 1.0, "temporal": 0.5, "direct": 2.25, "caption": 1.0, "qa": 1.0}, seed=1)
    assert len(mixture) == 40 + 15 + 45
    for epoch in range(3):
        found = [mixture.at(epoch * 100 + place) for place in range(100)]
        counts = Counter((view, row.id) for view, row in found)
        assert all(counts["mqa", row.id] == 1 for row in pools["mqa"])
        assert Counter(counts["temporal", row.id] for row in pools["temporal"]) == {0: 15, 1: 15}
        assert Counter(counts["direct", row.id] for row in pools["direct"]) == {2: 15, 3: 5}
        assert {view for view, _ in found[:30]} == {"mqa", "temporal", "direct"}
    first, second = ([mixture.at(epoch * 100 + place)[1].id for place in range(100)] for epoch in (0, 1))
    assert first != second
    again = Mixture(pools, {"mqa": 1.0, "temporal": 0.5, "direct": 2.25}, seed=1)
    assert [again.at(place) for place in (250, 3, 250)] == [mixture.at(place) for place in (250, 3, 250)]
    assert mixture.steps(2, 16) == 13


def test_nothing_to_train_on_is_said():
    with pytest.raises(DataError, match="every view has weight 0 or no rows"):
        Mixture({"mqa": rows(3), "caption": []}, {"mqa": 0.0, "caption": 1.0}, seed=0)


BAD_SETTINGS = [
    ({"perspective": "bird"}, "perspective"),
    ({"padding": 0.0}, "padding"),
    ({"prior_probability": 1.5}, "prior_probability"),
    ({"answer_format": "number"}, "answer_format"),
]


@pytest.mark.parametrize(("settings", "name"), BAD_SETTINGS, ids=[name for _, name in BAD_SETTINGS])
def test_settings_out_of_range_are_refused(settings, name):
    with pytest.raises(DataError, match=name):
        ViewSettings(**settings)
