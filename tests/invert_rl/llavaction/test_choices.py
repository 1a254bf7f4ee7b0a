"""Reading an answer as a choice, and the scores made of choices and classes."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.llavaction.answers.choices import Choice, parse_choice
from invert_rl.llavaction.answers.metrics import choice_metrics, jaccard_accuracy, top1_metrics

OPTIONS = ("take plate", "put down plate", "put plate", "open a door", "plate")

READ = [
    ("B", 1, "letter"),
    ("b", None, None),
    (" (C) ", 2, "letter"),
    ("**D**", 3, "letter"),
    ("C. put plate", 2, "letter"),
    ("C: put plate", 2, "letter"),
    ("A. put plate", 0, "letter"),  # letter and text disagree: the letter counts
    ("The answer is D", 3, "letter"),
    ("Answer: (E)", 4, "letter"),
    ("I think option B is right", 1, "letter"),
    ("First A. was likely, but it is C. put plate", 2, "letter"),
    ("<think>A. or B.</think> <answer>D</answer>", 3, "letter"),
    ("<answer>put down plate</answer>", 1, "text"),
    ("put plate", 2, "text"),
    ("Put Plate.", 2, "text"),
    ("I put down plate here", 1, "text"),
    ("A person takes something", None, None),  # an article is no letter
    ("The answer is a mystery", None, None),
    ("F. fly", None, None),
    ("F. take plate", 0, "text"),
    ("take plate or put plate", None, None),
    ("open a doorway", None, None),
    ("", None, None),
]


@pytest.mark.parametrize(("answer", "place", "by"), READ, ids=[answer or "empty" for answer, _, _ in READ])
def test_answers_are_read_by_letter_then_by_text(answer, place, by):
    assert parse_choice(answer, OPTIONS) == Choice(place, by)


def test_every_letter_and_text_of_many_questions_reads_back():
    rng = np.random.default_rng(0)
    words = [f"{verb} {noun}" for verb in ("take", "put", "cut") for noun in ("a", "ab", "cup", "cup of tea")]
    for _ in range(300):
        options = [str(text) for text in rng.choice(words, 5, replace=False)]
        for place, text in enumerate(options):
            letter = "ABCDE"[place]
            for answer in (letter, f"{letter}.", f"{letter}. {text}", f"({letter}) {text}"):
                assert parse_choice(answer, options) == Choice(place, "letter")
            assert parse_choice(text, options) == Choice(place, "text")


def row(name: str, answer: str) -> Row:
    return Row(name, "v.mp4", 9.0, "q", ((0.0, 1.0),), meta={"options": list(OPTIONS), "answer": answer})


def test_every_question_counts():
    rows = [row("a", "A"), row("b", "B"), row("c", "C"), row("d", "D")]
    choices = {"a": Choice(0, "letter"), "b": Choice(1, "text"), "c": Choice(None, None), "z": Choice(0, "letter")}
    found = choice_metrics(choices, rows)
    whole = {"MQA": 50.0, "MQA/answered": 100.0, "unparsable": 50.0, "missing": 0.0, "by_text": 25.0, "n": 4.0}
    assert found == whole
    with pytest.raises(DataError):
        choice_metrics({}, [])


def test_top1_by_hand():
    truth = {"a": (0, 1), "b": (2, 3), "c": (4, 5), "d": (0, 0)}
    predicted = {"a": (0, 1), "b": (2, 9), "c": (9, 5)}
    assert top1_metrics(predicted, truth) == {"action": 25.0, "verb": 50.0, "noun": 50.0, "n": 4.0}


def test_jaccard_against_scikit_like_counting():
    """The mean over clips of shared labels by all labels."""
    predicted = {"a": ["eat", "walk"], "b": [], "c": ["fly"]}
    truth = {"a": ["eat", "run"], "b": [], "c": ["fly"], "d": ["swim"]}
    assert jaccard_accuracy(predicted, truth) == pytest.approx(100 * (1 / 3 + 1 + 1 + 0) / 4)
