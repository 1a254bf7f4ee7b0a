"""All questions of a file, as the rules that answer them without their clips share them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from invert_rl.llavaction.audit.asked import Asked
from invert_rl.llavaction.questions.neighbours import neighbours_of
from invert_rl.llavaction.segments import same_text


@dataclass
class Neighbourhood:
    """The options and true classes of the questions around one in its video."""

    before: list[Asked] = field(default_factory=list)
    after: list[Asked] = field(default_factory=list)

    def truths(self) -> list[Asked]:
        """All of them."""
        return [*self.before, *self.after]


Scores = list[np.ndarray]
"""One array for each question: a higher score is a likelier option. An attack picks the highest, of equals any."""
Attack = Callable[["Corpus"], Scores | None]


class Corpus:
    """All questions of a file, with what attacks have in common."""

    def __init__(self, questions: Sequence[Asked]) -> None:
        self.questions = questions
        self.has_classes = all(question.classes is not None for question in questions)
        self.keys = [
            question.classes
            if question.classes is not None and self.has_classes
            else tuple(map(same_text, question.options))
            for question in questions
        ]
        """What stands for each option in counts: its class, or its text where the file has no classes."""
        self.folds = fold_of_video(questions)
        """Half of the file that a question is in; what an attack learns from answers, it learns in the other half."""
        self.around = neighbourhoods(questions)

    def true_keys(self, fold: int) -> list[Any]:
        """The true options outside one half."""
        return [
            keys[question.answer]
            for keys, question, own in zip(self.keys, self.questions, self.folds, strict=True)
            if own != fold
        ]


def fold_of_video(questions: Sequence[Asked]) -> list[int]:
    """0 or 1 for each question, the same for all of a video, so that both halves have about as many."""
    sizes = Counter(question.video for question in questions)
    if len(sizes) == 1:
        return [place % 2 for place in range(len(questions))]
    filled = [0, 0]
    fold: dict[str, int] = {}
    for video, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        fold[video] = int(filled[1] < filled[0])
        filled[fold[video]] += size
    return [fold[question.video] for question in questions]


def neighbourhoods(questions: Sequence[Asked]) -> list[Neighbourhood]:
    """The questions before and after each one in its video, as near as `neighbours_of` takes them."""
    before, after = neighbours_of([question.video for question in questions], [question.time for question in questions])
    return [
        Neighbourhood([questions[place] for place in b], [questions[place] for place in a])
        for b, a in zip(before, after, strict=True)
    ]
