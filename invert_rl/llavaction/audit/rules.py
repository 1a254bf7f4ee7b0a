"""What multiple-choice questions give away to who never looks: the accuracy of rules that see no video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.rows import Row
from invert_rl.llavaction.audit.asked import Asked, asked_of_rows
from invert_rl.llavaction.audit.attacks import ATTACKS
from invert_rl.llavaction.audit.corpus import Corpus, Scores
from invert_rl.llavaction.logit import fit

MARGIN = 0.05
"""An attack that is right this much more often than chance is a leak."""
LEARNED = "learned"
"""A weighing of all of them, learned in one half of the file and tested in the other."""
FROM_ANSWERS = (
    *("prior", "rarest", "truth_rate", "telling_words"),
    *("prior_verb", "prior_noun", "rarest_verb", "rarest_noun"),
)
"""Attacks made of the answers to the file's other questions. Clips that lend each other their actions are told apart by
them a little: what is true of another clip is true of one clip less. That takes a key of answers, so the learned attack
has these only where they are right more often than chance by themselves."""


def accuracy(scores: Scores, questions: Sequence[Asked]) -> float:
    """Share of the questions whose true option has the highest score; of equal ones each counts its part."""
    right = 0.0
    for found, question in zip(scores, questions, strict=True):
        best = found == found.max()
        right += best[question.answer] / best.sum()
    return right / len(questions)


def learned(features: Sequence[Scores], corpus: Corpus) -> float:
    """Accuracy of a conditional logit over the attacks' scores, fitted by Newton's method in the other half."""
    widest = max(len(question.options) for question in corpus.questions)
    there = np.array([[place < len(q.options) for place in range(widest)] for q in corpus.questions])
    table = np.zeros((len(corpus.questions), widest, len(features)))
    for column, feature in enumerate(features):
        for row, scores in enumerate(feature):
            table[row, : len(scores), column] = scores - scores.mean()
    table /= np.maximum(np.sqrt(np.square(table).sum((0, 1)) / there.sum()), 1e-12)
    answers, folds = np.array([question.answer for question in corpus.questions]), np.array(corpus.folds)
    right = 0.0
    for fold in (0, 1):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        weights = fit(table[train], answers[train], there[train])
        logits = np.round(table[test] @ weights, 9)
        found: Scores = [logit[here] for logit, here in zip(logits, there[test], strict=True)]
        right += accuracy(found, [corpus.questions[place] for place in test.tolist()]) * len(test) if len(test) else 0.0
    return right / len(corpus.questions)


def audit(questions: Sequence[Asked]) -> dict[str, Any]:
    """Blind accuracies of all attacks that the questions allow, in [0, 1], beside chance.

    ``leaks`` names those that are more than `MARGIN` above chance, the worst first, and with fewer than some 250
    questions more than twice the ``standard_error`` of guessing.
    """
    corpus = Corpus(questions)
    scores = {name: found for name, attack in ATTACKS.items() if (found := attack(corpus)) is not None}
    attacks = {name: accuracy(found, questions) for name, found in scores.items()}
    chances = np.array([1 / len(question.options) for question in questions])
    chance = float(chances.mean())
    useful = [found for name, found in scores.items() if name not in FROM_ANSWERS or attacks[name] > chance + MARGIN]
    attacks[LEARNED] = learned(useful, corpus)
    error = float(np.sqrt((chances * (1 - chances)).sum()) / len(questions))
    leaks = [name for name, value in attacks.items() if value > chance + max(MARGIN, 2 * error)]
    return {
        "n": len(questions),
        "chance": round(chance, 6),
        "standard_error": round(error, 6),
        "attacks": {name: round(value, 6) for name, value in attacks.items()},
        "leaks": sorted(leaks, key=lambda name: -attacks[name]),
    }


def blind_accuracies(tests: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, float]]:
    """Of each test, percent right without its clips: ``chance``, the ``learned`` rule, the ``worst`` of all, and the
    ``standard_error`` of guessing. Tests whose questions have several true options, or none, are left out."""
    found = {}
    for name, rows in tests.items():
        asked = [] if any("answers" in row.meta for row in rows) else asked_of_rows(rows)
        if asked:
            result = audit(asked)
            attacks = result["attacks"]
            values = {"chance": result["chance"], "learned": attacks[LEARNED], "worst": max(attacks.values())}
            values["standard_error"] = result["standard_error"]
            found[name] = {key: round(100 * float(value), 2) for key, value in values.items()}
    return found
