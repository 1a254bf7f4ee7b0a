"""Refusal: the queries that are made are in no annotation of their video, and answers are paid and counted rightly."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.rows import Row
from data_prep.verbs import annotate_verbs
from invert_rl.evaluation.predictions import Prediction, read_answer
from invert_rl.evaluation.scoring import metrics_of
from invert_rl.tasks import load_preset
from invert_rl.tasks.refuse import Refusal, irrelevant_rows, object_words
from invert_rl.tasks.rewards import content_scores
from rewards.pipelines import load_pipeline


def row(name: str, video: str, query: str, verb: str, masked: str) -> Row:
    return Row(name, video, 30.0, query, ((2.0, 8.0),), meta={"verbs": [verb], "masked_query": masked})


ROWS = [
    row("a", "1.mp4", "person opens the door", "open", "person [] the door"),
    row("b", "1.mp4", "person sits on a chair", "sit", "person [] on a chair"),
    row("c", "2.mp4", "person closes the door", "close", "person [] the door"),
    row("d", "3.mp4", "person opens a window", "open", "person [] a window"),
    row("e", "4.mp4", "person eats a sandwich", "eat", "person [] a sandwich"),
]


def test_queries_that_are_made_are_not_in_the_video():
    made = irrelevant_rows(ROWS)
    assert [r.id for r in made] == ["a!", "b!", "c!", "d!", "e!"]
    by_video = {r.video: [other for other in ROWS if other.video == r.video] for r in ROWS}
    for new in made:
        own = by_video[new.video]
        assert new.windows == ()
        assert new.query not in [other.query for other in own]
        verbs = {verb for other in own for verb in other.meta["verbs"]}
        objects = {word for other in own for word in object_words(other)}
        absent = {"verb": not set(new.meta["verbs"]) & verbs, "object": not object_words(new) & objects}
        absent["both"] = absent["verb"] and absent["object"]
        assert absent[new.meta["irrelevant"]]
    assert irrelevant_rows(ROWS[::-1])[::-1] == made


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_the_share_of_irrelevant_queries(share):
    many = [
        row(f"{video}-{n}", f"{video}.mp4", f"he {verb}s the {noun}", verb, f"he [] the {noun}")
        for video in (first + second for first in "bcdfg" for second in "klmnprst")
        for n, (verb, noun) in enumerate([("turn", f"wheel{video}"), (f"verb{video}", "box")])
    ]
    used = Refusal(name="r", question="q", wanted="w", kind="span", irrelevant_share=share).rows(many)
    assert sum(not r.windows for r in used) / len(used) == pytest.approx(share, abs=0.02)
    assert len(used) >= 75
    assert len({r.id for r in used}) == len(used)


def test_a_share_outside_0_and_1_is_refused():
    with pytest.raises(DataError, match="irrelevant_share"):
        Refusal(name="r", question="q", wanted="w", kind="span", irrelevant_share=1.0).rows(ROWS)


@pytest.mark.parametrize(("preset", "nothing"), [("think", "not in the video"), ("spans_json", "[]")])
def test_reward_metrics_and_what_is_taught(preset, nothing):
    task = load_preset(preset).tasks["refuse"]
    rows = task.rows(ROWS)
    true, absent = rows[0], rows[-1]
    assert not absent.windows and task.answer(absent) == nothing
    options = task.default_rewards()
    for text, target, reward in (
        (nothing, absent, 1.0),
        (nothing, true, 0.0),
        ("2 to 8", true, 1.0),
        ("2 to 8", absent, 0.0),
        ("I cannot say", absent, 0.0),
        (f"{nothing}, or 2 to 8", absent, 0.0),
        (f"{nothing}, or 2 to 8", true, 1.0 if preset == "think" else 0.0),
    ):
        if preset == "spans_json" and "," in text:
            continue
        assert content_scores(task, [text], [target], options, {}) == [reward], text
    assert task.is_valid(task.target(absent), absent) and task.is_valid(task.target(true), true)

    def score(answer_true: str, answer_absent: str) -> dict[str, float]:
        predictions = []
        for r in rows:
            prediction = Prediction(r.id, "refuse")
            read_answer(prediction, answer_true if r.windows else answer_absent, task, r)
            predictions.append(prediction)
        return metrics_of(predictions, ROWS, tasks={"refuse": task})

    assert score("2 to 8", nothing)["REFUSE_rejection"] == 100.0
    assert score("2 to 8", nothing)["REFUSE_false_rejection"] == 0.0
    assert score("2 to 8", nothing)["REFUSE_mIoU"] == 100.0
    assert score(nothing, nothing)["REFUSE_false_rejection"] == 100.0
    assert score("2 to 8", "gibberish")["REFUSE_rejection"] == 0.0


def test_charades_gives_one_for_nearly_every_row():
    path = Path("../shared/data/charades/charades_sta_test.txt")
    if not path.is_file():
        pytest.skip("../shared/data/charades is not there")
    rows = []
    for number, line in enumerate(path.read_text().splitlines()):
        where, query = line.split("##")
        name, start, end = where.split()
        rows.append(Row(f"{number}", f"{name}.mp4", 200.0, query, ((float(start), float(end) + 0.1),)))
    rows = annotate_verbs(rows[:1500], load_pipeline())
    made = irrelevant_rows(rows)
    assert len(made) > 0.98 * len(rows)
    kinds = [r.meta["irrelevant"] for r in made]
    assert min(kinds.count("verb"), kinds.count("object")) > 0.25 * len(made)
