"""Scores of choices and of structured actions (paper, section 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.llavaction.answers.choices import Choice
from invert_rl.llavaction.questions.mqa import LETTERS
from invert_rl.llavaction.segments import Action


def choice_metrics(
    choices: Mapping[str, Choice], rows: Sequence[Row], missing: Collection[str] = ()
) -> dict[str, float]:
    """Accuracy of multiple-choice answers by row id, percent; every row counts, also one without an answer.

    ``MQA`` is the accuracy, ``MQA/answered`` that over the rows with a readable choice, ``unparsable`` the share of
    answers that cannot be read, ``missing`` the share of rows that were not asked, because their clip cannot be shown
    (the ids of ``missing``), ``by_text`` the share read by the option's text for want of a letter, ``n`` the number of
    rows. Raises `DataError` without rows.
    """
    if not rows:
        raise DataError("there are no questions to score")
    found = Counter[str]()
    for row in rows:
        choice = choices.get(row.id, Choice(None, None))
        found["right"] += choice.place is not None and LETTERS[choice.place] == row.meta["answer"]
        found["read"] += choice.place is not None
        found["missing"] += row.id in missing
        found["text"] += choice.by == "text"
    share = 100 / len(rows)
    return {
        "MQA": share * found["right"],
        "MQA/answered": 100 * found["right"] / max(1, found["read"]),
        "unparsable": share * (len(rows) - found["read"] - found["missing"]),
        "missing": share * found["missing"],
        "by_text": share * found["text"],
        "n": float(len(rows)),
    }


def top1_metrics(predicted: Mapping[str, Action], truth: Mapping[str, Action]) -> dict[str, float]:
    """EPIC-KITCHENS-100 top-1 accuracy by segment id, percent: ``action`` (both right), ``verb`` and ``noun``.

    Every segment of ``truth`` counts; one without a prediction is wrong.
    """
    if not truth:
        raise DataError("there are no segments to score")
    found = Counter[str]()
    for identity, action in truth.items():
        verb, noun = predicted.get(identity, (-1, -1))
        found["action"] += (verb, noun) == action
        found["verb"] += verb == action[0]
        found["noun"] += noun == action[1]
    return {name: 100 * found[name] / len(truth) for name in ("action", "verb", "noun")} | {"n": float(len(truth))}


def jaccard(predicted: Collection[Hashable], truth: Collection[Hashable]) -> float:
    """|A ∩ B| / |A ∪ B| of two sets of labels; 1 for two empty ones."""
    a, b = set(predicted), set(truth)
    return len(a & b) / len(a | b) if a | b else 1.0


def jaccard_accuracy(predicted: Mapping[str, Collection[str]], truth: Mapping[str, Collection[str]]) -> float:
    """Mean Jaccard index over clips with several labels (Animal Kingdom, Table 6), percent; every clip counts."""
    if not truth:
        raise DataError("there are no clips to score")
    return 100 * sum(jaccard(predicted.get(identity, ()), labels) for identity, labels in truth.items()) / len(truth)
