"""Evaluation at scale: answers that survive a kill, what is missing and what is unreadable, EK100's splits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from zipfile import ZipFile

import numpy as np
import pytest

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.evaluation.parts import part_of
from invert_rl.llavaction.answers.answer import Answer, QuestionAnswerer, missing_of
from invert_rl.llavaction.answers.answer_log import PLAIN, SAP, AnswerLog
from invert_rl.llavaction.answers.choices import Choice
from invert_rl.llavaction.answers.ek100 import read_splits, submission, write_submission
from invert_rl.llavaction.answers.metrics import choice_metrics
from invert_rl.llavaction.answers.model_arguments import model_identity
from invert_rl.llavaction.answers.tables import by_difficulty, filtered_choices, read_difficulty
from invert_rl.llavaction.prompts import choice_prompt, difficulty_request, time_instruction
from invert_rl.llavaction.replay import read_llava_video
from invert_rl.llavaction.views import ViewSettings, sample_of

OPTIONS = ["take knife", "open door", "cut onion"]


def row(identity: str, verb: int = 1, noun: int = 2, **meta) -> Row:
    meta = {"options": OPTIONS, "option_classes": ["0:0", f"{verb}:{noun}", "5:5"], "answer": "B", **meta}
    meta |= {"verb_class": verb, "noun_class": noun}
    return Row(identity, "v.mp4", 60.0, "open door", ((1.0, 2.0),), meta=meta)


class Parrot(QuestionAnswerer):
    """Says "B. open door", and notes what it was asked; stops the process at the question ``dies_at``."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.asked: list[str] = []
        self.dies_at = dies_at
        self.rank, self.ranks, self.batch_size = 0, 1, 2

        class Model:
            training = False

            def eval(self):
                return self

            def train(self, mode):
                return self

        self.model = Model()

    def _batch(self, rows: Sequence[Row], texts) -> list[Answer]:
        for asked in rows:
            if len(self.asked) == self.dies_at:
                raise KeyboardInterrupt
            self.asked.append(asked.id)
        return [Answer(asked.id, "B. open door", Choice(1, "letter"), OPTIONS[1]) for asked in rows]


def test_a_killed_evaluation_goes_on(tmp_path):
    rows = [row(f"r{n}") for n in range(9)]
    output = tmp_path / "a.jsonl"
    with pytest.raises(KeyboardInterrupt):
        AnswerLog(output, {"model": "m"}).ask(PLAIN, Parrot(dies_at=5), rows)
    part = part_of(output, 0)
    part.write_text(part.read_text() + '{"id": "r8", "ta')  # what a kill can leave
    part_of(output, 1).write_text('{"id": "r5", "ta')  # or another rank's, in its first line
    part_of(output, 2).touch()
    again = Parrot()
    log = AnswerLog(output, {"model": "m"})
    answers = log.ask(PLAIN, again, rows)
    assert again.asked == ["r4", "r5", "r6", "r7", "r8"]
    assert list(answers) == [r.id for r in rows]
    sap = log.ask(SAP, Parrot(), rows[:2])
    log.finish({PLAIN: answers, SAP: {**answers, **sap}})
    assert [path.name for path in tmp_path.glob("*part*")] == []
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["id"] for line in lines if line["task"] == PLAIN] == [r.id for r in rows]
    finished = Parrot()
    assert AnswerLog(output, {"model": "m"}).ask(PLAIN, finished, rows) == answers
    assert finished.asked == []
    with pytest.raises(DataError, match="another model"):
        AnswerLog(output, {"model": "other"})


def test_answers_belong_to_weights_and_not_to_a_name(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"as first trained")
    first = model_identity(str(tmp_path))
    weights.write_bytes(b"as trained again")
    second = model_identity(str(tmp_path))
    assert first["model"] == second["model"]
    assert first != second
    assert model_identity("some/model") == {"model": "some/model"}


def test_missing_is_not_unparsable():
    rows = [row(f"r{n}") for n in range(5)]
    answers = {
        "r0": Answer("r0", "B", Choice(1, "letter")),
        "r1": Answer("r1", "A", Choice(0, "letter")),
        "r2": Answer("r2", "?", Choice(None, None), status="unparsable"),
        "r3": Answer("r3", "", Choice(None, None), status="missing_video"),
        "r4": Answer("r4", "open door", Choice(1, "text")),
    }
    choices = {name: answer.choice for name, answer in answers.items()}
    found = choice_metrics(choices, rows, missing_of(answers))
    assert found == {
        "MQA": 40.0,
        "MQA/answered": pytest.approx(200 / 3),
        "unparsable": 20.0,
        "missing": 20.0,
        "by_text": 20.0,
        "n": 5.0,
    }


def test_splits_and_submission_by_hand(tmp_path):
    (tmp_path / "v.csv").write_text("verb\n7\n")
    (tmp_path / "n.csv").write_text("noun\n9\n")
    (tmp_path / "p.csv").write_text("participant_id\nP18\n")
    splits = read_splits(tmp_path / "v.csv", tmp_path / "n.csv", tmp_path / "p.csv")
    rows = [row("P01_1", 7, 2), row("P18_2", 1, 9), row("P18_3", 1, 2), row("P02_4", 1, 2)]
    found = {name: [r.id for r in members] for name, members in splits.rows(rows).items()}
    assert found == {
        "tail": ["P01_1", "P18_2"],
        "head": ["P18_3", "P02_4"],
        "unseen": ["P18_2", "P18_3"],
        "seen": ["P01_1", "P02_4"],
    }
    assert read_splits(None, None, None).rows(rows) == {}
    by_verb = {name: [r.id for r in part] for name, part in splits.rows(rows, "verb").items()}
    by_noun = {name: [r.id for r in part] for name, part in splits.rows(rows, "noun").items()}
    assert (by_verb["tail"], by_noun["tail"]) == (["P01_1"], ["P18_2"])
    structured = [row("P01_1", 7, 2, first="5:5")]
    made = submission({"P01_1": Choice(1, "letter")}, structured, (2, 3, 4))
    assert (made["version"], made["challenge"], made["sls_pt"], made["sls_td"]) == ("0.2", "action_recognition", 2, 4)
    entry = made["results"]["P01_1"]
    assert list(entry) == ["verb", "noun"]
    assert list(entry["verb"]) == [str(n) for n in range(97)] and list(entry["noun"]) == [str(n) for n in range(300)]
    assert {k: v for k, v in entry["verb"].items() if v} == {"7": 1.0, "0": 0.5, "5": 0.5}
    assert {k: v for k, v in entry["noun"].items() if v} == {"2": 1.0, "0": 0.5, "5": 0.5}
    fallback = submission({}, structured, (0, 0, 0))["results"]["P01_1"]
    assert max(fallback["verb"], key=fallback["verb"].get) == "5"
    write_submission(tmp_path / "s.zip", made)
    with ZipFile(tmp_path / "s.zip") as archive:
        assert archive.namelist() == ["test.json"]
        assert json.loads(archive.read("test.json")) == json.loads(json.dumps(made))
    for wrong, levels in ((row("P01_1", 97, 2, first="5:5"), (2, 3, 4)), (structured[0], (2, 3, 6))):
        with pytest.raises(DataError, match="97 classes|0 to 5"):
            submission({}, [wrong], levels)


def test_the_official_scoring_of_a_submission_finds_the_chosen_class():
    """Products of the softmax of both score lists, as the challenge's own `compute_action_scores` takes them."""
    rng = np.random.default_rng(0)
    rows, choices = [], {}
    for number in range(50):
        classes = [f"{v}:{n}" for v, n in zip(rng.integers(0, 97, 5), rng.integers(0, 300, 5), strict=True)]
        meta = {"options": list("vwxyz"), "option_classes": classes, "answer": "A", "first": classes[0]}
        verb, noun = map(int, classes[0].split(":"))
        rows.append(row(f"r{number}", verb, noun, **meta))
        choices[f"r{number}"] = Choice(int(rng.integers(5)), "letter")
    made = submission(choices, rows, (5, 5, 5))["results"]
    for asked in rows:
        verbs, nouns = (np.exp(list(made[asked.id][kind].values())) for kind in ("verb", "noun"))
        best = np.unravel_index(np.outer(verbs, nouns).argmax(), (97, 300))
        assert "{}:{}".format(*best) == asked.meta["option_classes"][choices[asked.id].place]


def test_the_released_wording_is_that_of_the_released_code():
    prompt = choice_prompt(OPTIONS, style="released")
    assert prompt == (
        "You are seeing this video from egocentric view and you are the person. Your hands are sometimes interacting "
        "with objects. What action are you doing? Given multiple choices, format your answer briefly such as 'A. move "
        "knife'. \nHere are the options of actions you are selecting:\nA. take knife, B. open door, C. cut onion"
    )
    before = choice_prompt(OPTIONS, priors=[(4.5, "open drawer"), (1.25, "take fork")], style="released")
    assert before.endswith(
        "What action are you doing? \n4.50 seconds ago, you started an action open drawer. 1.25 seconds ago, you "
        "started an action take fork. What action are you currently performing? Here are the options of actions you "
        "can select:\nA. take knife, B. open door, C. cut onion"
    )
    assert time_instruction(2.5, 16, "released") == (
        "The provided video lasts for 2.500 seconds, and 16 frames are uniformly sampled from it."
    )
    settings = ViewSettings(prompt_style="released")
    direct = sample_of("direct", row("r"), np.random.default_rng(0), settings).prompt
    assert direct.endswith(
        "What action are you doing?  What action are you performing? Give a short sentence such as 'move knife'."
    )
    assert ", " in sample_of("temporal", row("r"), np.random.default_rng(0), settings).answer


def test_replayed_conversations_are_questions_about_whole_videos(tmp_path):
    turns = [
        {"from": "human", "value": "<image>\nWhat is seen?"},
        {"from": "gpt", "value": "A cat."},
        {"from": "human", "value": "Its colour?"},
        {"from": "gpt", "value": "Grey."},
    ]
    path = tmp_path / "cap.json"
    path.write_text(json.dumps([{"id": "x", "video": "a/b.mp4", "conversations": turns}]))
    rows = read_llava_video(path)
    assert [(r.meta["question"], r.meta["answer"]) for r in rows] == [
        ("What is seen?", "A cat."),
        ("Its colour?", "Grey."),
    ]
    assert len({r.id for r in rows}) == 2
    for bad in ({"video": "../x.mp4", "conversations": turns}, {"video": "x.mp4", "conversations": turns[:3]}):
        path.write_text(json.dumps([{"id": "x", **bad}]))
        with pytest.raises(DataError, match="cap.json: entry 0"):
            read_llava_video(path)


def test_accuracy_by_difficulty_and_of_the_filtered_specialist_by_hand(tmp_path):
    rows = [row(f"r{n}", 1, 2) for n in range(5)]  # B is true; options are 0:0, 1:2 and 5:5
    choices = {"r0": Choice(1, "letter"), "r1": Choice(0, "letter"), "r2": Choice(1, "letter")}
    ratings = tmp_path / "r.jsonl"
    ratings.write_text(
        "".join(json.dumps({"id": f"r{n}", "difficulty": "3." if n < 2 else 1}) + "\n" for n in range(5))
    )
    found = by_difficulty(choices, rows, read_difficulty(ratings, rows))
    assert found == {"1": {"MQA": pytest.approx(100 / 3), "n": 3.0}, "3": {"MQA": 50.0, "n": 2.0}}
    with pytest.raises(DataError, match="'r9' is missing"):
        read_difficulty(ratings, [*rows, row("r9")])
    ratings.write_text('{"id": "r0", "difficulty": 5}')
    with pytest.raises(DataError, match="r.jsonl:1: difficulty 5"):
        read_difficulty(ratings, rows)
    lists = {"r0": ["9:9", "1:2", "0:0"], "r1": ["5:5", "1:2"], "r2": ["7:7"], "r3": ["1:2"]}
    predictions = tmp_path / "p.json"
    predictions.write_text(json.dumps({name: {"predictions": keys} for name, keys in lists.items()}))
    chosen = filtered_choices(predictions, rows)
    assert {name: choice.place for name, choice in chosen.items()} == {"r0": 1, "r1": 2, "r3": 1}
    assert choice_metrics(chosen, rows)["MQA"] == 40.0


def test_the_request_for_difficulty_names_truth_and_options():
    request = difficulty_request("open door", OPTIONS)
    assert "Ground Truth Answer: open door\nOptions: take knife, open door, cut onion\n" in request
    assert request.endswith("Respond with only a single number (1-4) representing the difficulty score.")
