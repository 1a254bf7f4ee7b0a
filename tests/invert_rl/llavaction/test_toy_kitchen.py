"""The toy kitchen: its clips show what they are said to show, and its options give nothing away."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from invert_rl.llavaction.audit.asked import asked_of_rows
from invert_rl.llavaction.audit.rules import MARGIN, audit
from invert_rl.llavaction.segments import ClassMap
from invert_rl.llavaction.toy.kitchen import NOUNS, VERBS, Action, draw_action, render, segment
from invert_rl.llavaction.toy.questions import segment_of, toy_questions
from invert_rl.llavaction.toy.start import kitchen_tokenizer

EVERYTHING = [segment(verb, noun, "") for verb in range(len(VERBS)) for noun in range(len(NOUNS))]
CLASSES = ClassMap(EVERYTHING, dict(enumerate(VERBS)), dict(enumerate(NOUNS)))


@pytest.mark.parametrize("distractors", ["hard", "random"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_rule_without_a_look_is_better_than_chance(distractors, seed):
    """Our own audit, and counts of the test: of 1,200 questions none may know more than luck allows."""
    rows = toy_questions([segment_of("train", place) for place in range(1200)], CLASSES, distractors, seed)
    assert len(rows) == 1200
    found = audit(asked_of_rows(rows))
    assert found["leaks"] == []
    assert max(found["attacks"].values()) < 0.2 + MARGIN
    answers = ["ABCDE".index(row.meta["answer"]) for row in rows]
    assert max(Counter(answers).values()) < 290
    if distractors == "hard":
        assert all(len({key.split(":")[1] for key in row.meta["option_classes"]}) == 1 for row in rows)
        verbs = Counter(row.meta["option_classes"]["ABCDE".index(row.meta["answer"])].split(":")[0] for row in rows)
        offered = Counter(key.split(":")[0] for row in rows for key in row.meta["option_classes"])
        assert all(abs(verbs[verb] / offered[verb] - 0.2) < 0.06 for verb in offered)


def test_opposite_verbs_show_the_same_pictures_in_reversed_order():
    for first, second in (("push", "pull"), ("lift", "lower")):
        action = Action(VERBS.index(first), 3, 28.0, 28.0, (180, 180, 180), 1.0)
        one, other = (
            render(replace(action, verb=VERBS.index(verb)), np.random.default_rng(0)).astype(int)
            for verb in (first, second)
        )
        moved, same = (np.abs(one - shown).max(-1) > 30 for shown in (other, other[::-1]))
        assert same.mean() < 0.001 < 0.02 < moved.mean()


def test_a_nearest_mean_of_pictures_tells_nouns_from_one_frame_and_verbs_worse():
    """What is to be learned is in the clips: colour gives the noun away, while a verb needs the movement."""
    rng = np.random.default_rng(0)
    actions = [draw_action(rng) for _ in range(600)]
    middle = np.stack([render(action, rng)[8].reshape(14, 4, 14, 4, 3).mean((1, 3)).ravel() for action in actions])
    train, test = slice(0, 400), slice(400, 600)
    right = {}
    for name in ("verb", "noun"):
        labels = np.array([getattr(action, name) for action in actions])
        means = np.stack([middle[train][labels[train] == label].mean(0) for label in range(8)])
        guess = ((middle[test][:, None] - means) ** 2).sum(-1).argmin(1)
        right[name] = (guess == labels[test]).mean()
    assert right["noun"] > 0.2
    assert right["verb"] < 0.6


def test_words_are_single_tokens():
    tokenizer = kitchen_tokenizer()
    for word in (*VERBS, *NOUNS):
        assert len(tokenizer.tokenize(f" {word}")) == 1, word
