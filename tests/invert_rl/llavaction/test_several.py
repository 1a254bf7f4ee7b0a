"""Clips in which several things are done: their questions, how answers are read, and the Jaccard index."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from data_prep.errors import DataError
from data_prep.rows import read_rows
from invert_rl.cli import main as command
from invert_rl.llavaction.answers.answer import answer_of, question_sample, read_answer
from invert_rl.llavaction.audit.asked import asked_of_rows
from invert_rl.llavaction.questions.mqa import check_question
from invert_rl.llavaction.questions.several import answers_of, parse_several, several_metrics
from invert_rl.llavaction.report import answer_metrics
from invert_rl.llavaction.views import ViewSettings, sample_of
from tests.invert_rl.llavaction.kitchen import make_segments, write_csv, write_scores

OPTIONS = ["eat grass", "walk", "keep still", "run away", "a swim"]


@pytest.mark.parametrize(
    ("answer", "places"),
    [
        ("A. eat grass, C. keep still", (0, 2)),
        ("B", (1,)),
        ("(D), (B)", (1, 3)),
        ("A, B and E.", (0, 1, 4)),
        ("A man does walk", ()),
        ("walk, keep still", (1, 2)),
        ("Walk.", (1,)),
        ("I see Z.", ()),
        ("", ()),
    ],
)
def test_answers_are_read_by_letters_or_else_by_texts(answer, places):
    assert parse_several(answer, OPTIONS) == places


@pytest.fixture
def rows(tmp_path):
    """Thirty clips with one to three actions each, and the scores of a model for all of their rows."""
    segments = make_segments(60)
    rng = np.random.default_rng(0)
    merged = []
    for segment in segments:  # every other row or so is another action of the clip before
        same = merged and merged[-1].video == segment.video and rng.random() < 0.5
        merged.append(replace(segment, start=merged[-1].start, end=merged[-1].end) if same else segment)
    write_csv(tmp_path / "a.csv", merged)
    write_scores(tmp_path / "s.npz", merged)
    build = ["build-mqa", "--annotations", str(tmp_path / "a.csv"), "--specialist", str(tmp_path / "s.npz")]
    assert command([*build, "--several", "--options", "6", "--output", str(tmp_path / "q.jsonl")]) == 0
    found = read_rows(tmp_path / "q.jsonl")
    clips = {(s.video, s.start, s.end) for s in merged}
    summary = json.loads((tmp_path / "q.summary.json").read_text())
    assert len(found) + sum(summary["rejected"].values()) == len(clips) == summary["rows"]
    assert summary["questions"] == len(found)
    assert summary["specialist_recall"] is None
    return merged, found


def test_a_clip_has_all_its_actions_once_among_its_options(rows):
    merged, found = rows
    assert {len(answers_of(row)) for row in found} >= {1, 2}
    for row in found:
        check_question(row)
        own = {s.action for s in merged if (s.video, s.start) == (row.video.removesuffix(".mp4"), row.window[0])}
        true = {row.meta["option_classes"][place] for place in answers_of(row)}
        assert true <= {f"{v}:{n}" for v, n in own}
        texts = {row.meta["options"][place] for place in answers_of(row)}
        assert texts == {s.narration for s in merged if f"{s.video}.mp4" == row.video and s.start == row.window[0]}
        assert len(set(row.meta["options"])) == len(row.meta["options"]) == 6
    letters = [letter for row in found for letter in row.meta["answers"]]
    assert set(letters) == set("ABCDEF")


def test_what_is_taught_is_read_back_and_scores_full_marks(rows):
    _, found = rows
    answers = {}
    for row in found:
        sample = sample_of("mqa", row, np.random.default_rng(0), ViewSettings())
        assert "More than one of the options can be right." in sample.prompt
        assert question_sample(row, ViewSettings()).prompt == sample.prompt
        given = read_answer(row, sample.answer)
        assert answer_of(json.loads(json.dumps(given.record()))) == given
        answers[row.id] = given
    scores = answer_metrics(answers, found)
    assert (scores["jaccard"], scores["exact"], scores["unparsable"]) == (100.0, 100.0, 0.0)
    with pytest.raises(DataError, match="several true options"):
        asked_of_rows(found)


def test_scores_by_hand(rows):
    _, found = rows
    wanted = zip(found[:3], (["A"], ["A", "B"], ["C"]), strict=True)
    one, two, three = (replace(row, meta={**row.meta, "answers": letters}) for row, letters in wanted)
    scores = several_metrics({one.id: (0, 1), two.id: (0, 1)}, [one, two, three])
    assert scores["jaccard"] == pytest.approx(100 * (1 / 2 + 1 + 0) / 3)
    assert scores["exact"] == pytest.approx(100 / 3)
    assert scores["jaccard/all"] == pytest.approx(100 * (1 + 2 + 1) / 18)
