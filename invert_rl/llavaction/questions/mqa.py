"""Multiple-choice questions about actions with hard distractors: EPIC-KITCHENS-100-MQA (paper, section 3.1)."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.llavaction.questions.context import Clips
from invert_rl.llavaction.questions.exchange import exchange_sets
from invert_rl.llavaction.questions.specialist import NoPrediction, Specialist
from invert_rl.llavaction.segments import Action, ClassMap, Segment, action_key, same_text

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
STYLES = ("narration", "label")
RECALLS = (1, 5, 10, 20)
MODES = ("benchmark", "train", "structured")
DEPTH = 100
"""Balanced options come from this many of a specialist's highest-ranked classes, if their clips are free."""
MULTIPLIER = 2
"""Training draws its distractors from this many times K of the hardest classes [R], the benchmark has the hardest."""


class Rejected(Exception):
    """A segment that no question can be made of; the message is the reason."""


@dataclass(frozen=True)
class Question:
    """One clip with its options, one of which is true."""

    segment: Segment
    options: tuple[str, ...]
    """Texts without letters, all different, in the order in which they are shown."""
    actions: tuple[Action, ...]
    """The class of each option, all different."""
    answer: int | None
    """Place of the true option; None where it is not among them, as a structured question may be."""
    first: Action | None = None
    """The specialist's best class, of a structured question."""

    @property
    def letter(self) -> str | None:
        """Letter of the true option, if it is among them."""
        return None if self.answer is None else LETTERS[self.answer]


@dataclass
class Summary:
    """What happened while questions were built."""

    rows: int = 0
    rejected: list[dict[str, str]] = field(default_factory=list)
    """Id and reason of each segment without a question."""
    same_text: int = 0
    """Classes passed over because all their texts were among the options already."""
    unknown: int = 0
    """Predicted classes passed over because no segment has them."""
    ranks: list[int | None] = field(default_factory=list)
    """Place of the true class in each ranking, from 0; None where it is missing."""
    letters: Counter[str] = field(default_factory=Counter)
    """How often each letter is true; "none" where no option is."""
    alone: int = 0
    """Clips of balanced questions that found no group: their options were chosen for them alone."""

    def record(self, knows_truth: bool) -> dict[str, Any]:
        """The summary as JSON; recall is None for rankings made from the true class, and of several true options."""
        reasons = Counter(entry["reason"] for entry in self.rejected)
        recall = {
            f"top_{k}": sum(rank is not None and rank < k for rank in self.ranks) / max(1, len(self.ranks))
            for k in RECALLS
        }
        return {
            "rows": self.rows,
            "questions": self.rows - len(self.rejected),
            "rejected": dict(reasons.most_common()),
            "rejected_rows": self.rejected,
            "specialist_recall": (
                None if knows_truth or not self.ranks else {name: round(value, 6) for name, value in recall.items()}
            ),
            "classes_passed_over": {"same text as another option": self.same_text, "in no annotation": self.unknown},
            "options_chosen_alone": self.alone,
            "answers": {letter: self.letters[letter] for letter in sorted(self.letters)},
        }


class QuestionBuilder:
    """Makes one question of each segment; what is random depends on the seed and, unless balanced, the segment alone.

    Args:
        classes: all classes with their narrations.
        specialist: ranks the classes, hardest first.
        count: number of options, K.
        mode: "benchmark" takes the K - 1 highest-ranked classes other than the true one; "train" draws K - 1 of the
            2 K highest-ranked (`MULTIPLIER`); "structured" has the K highest-ranked, the true one only if it is among
            them (section 3.3, two-stage prediction).
        style: "narration" writes a class as one of its narrations, drawn from all of them (eq. 3), and the true one
            as the segment's own; "label" writes the official names.
        seed: of the drawing and the order of options.
        balanced: clips lend each other their actions as wrong options (`llavaction.questions.exchange`), so that
            options do not tell which of them is true; the segments' own texts are used for all. Otherwise, as in the
            paper, each clip's wrong options are the specialist's for it alone, and the true one is in their midst.
    """

    def __init__(
        self,
        classes: ClassMap,
        specialist: Specialist,
        count: int = 5,
        mode: str = "benchmark",
        style: str = "narration",
        seed: int = 0,
        balanced: bool = False,
    ) -> None:
        if mode not in MODES:
            raise DataError(f"mode must be one of {', '.join(MODES)}, found {mode!r}")
        if mode == "structured" and specialist.knows_truth:
            raise DataError("structured prediction needs a specialist that does not know the true class")
        if mode == "structured" and balanced:
            raise DataError("structured questions have the specialist's own best classes: they cannot be balanced")
        if style not in STYLES:
            raise DataError(f"style must be one of {', '.join(STYLES)}, found {style!r}")
        if not 2 <= count <= len(LETTERS):
            raise DataError(f"the number of options must be between 2 and {len(LETTERS)}, found {count}")
        if len(classes.actions) < count:
            raise DataError(f"{count} options need as many classes, the annotations have {len(classes.actions)}")
        self.classes, self.specialist = classes, specialist
        self.count, self.mode, self.style, self.seed = count, mode, style, seed
        self.balanced = balanced
        self.summary = Summary()

    def questions(self, segments: Sequence[Segment]) -> list[Question]:
        """The questions of all segments that allow one; `summary` says what happened to the others."""
        usable: list[tuple[Segment, Sequence[Action]]] = []
        for place, segment in enumerate(segments):
            self.summary.rows += 1
            try:
                usable.append((segment, self._ranked(place, segment)))
            except (Rejected, NoPrediction) as error:
                self._reject(segment, error)
        found = []
        for segment, question in self._exchanged(usable) if self.balanced else self._separate(usable):
            if question is None:
                self._reject(segment, Rejected("fewer distinct options than asked for"))
            else:
                self.summary.letters[question.letter or "none"] += 1
                found.append(question)
        return found

    def _reject(self, segment: Segment, reason: Exception) -> None:
        self.summary.rejected.append({"id": segment.id, "reason": str(reason)})

    def _ranked(self, place: int, segment: Segment) -> Sequence[Action]:
        """The specialist's classes for the segment in row ``place``; raises `Rejected` or `NoPrediction`."""
        if not self.true_text(segment):
            raise Rejected("no narration")
        if segment.end <= segment.start:
            raise Rejected("an empty segment")
        ranked = self.specialist.ranked(place, segment)
        self.summary.ranks.append(ranked.index(segment.action) if segment.action in ranked else None)
        if self.balanced:  # of the others only what grouping looks at
            known = (action for action in ranked if action in self.classes.index and action != segment.action)
            return list(islice(known, DEPTH))
        return ranked

    def _exchanged(
        self, usable: Sequence[tuple[Segment, Sequence[Action]]]
    ) -> Iterator[tuple[Segment, Question | None]]:
        """Questions whose wrong options are the actions of other clips that ask with the same options."""
        index = self.classes.index
        closest = np.full((len(usable), DEPTH), -1, dtype=np.int32)
        for row, (_, ranked) in enumerate(usable):
            closest[row, : len(ranked)] = [index[action] for action in ranked]
        segments = [segment for segment, _ in usable]
        texts = [self.true_text(segment) for segment in segments]
        classes = np.array([index[segment.action] for segment in segments])
        clips = Clips(segments, texts, closest, classes, len(index))
        sets, self.summary.alone = exchange_sets(clips, self.count, self.mode, self.seed)
        for segment, members in zip(segments, sets, strict=True):
            options = [(segments[member].action, texts[member]) for member in members]
            yield segment, self._question(segment, options) if options else None

    def _separate(
        self, usable: Sequence[tuple[Segment, Sequence[Action]]]
    ) -> Iterator[tuple[Segment, Question | None]]:
        """Questions whose wrong options are chosen for each clip by itself."""
        for segment, ranked in usable:
            rng = np.random.default_rng([self.seed, 0, zlib.crc32(segment.id.encode())])
            truth = self.true_text(segment)
            structured = self.mode == "structured"
            wanted = self.count if structured else self.count - 1
            used = set() if structured else {same_text(truth)}
            chosen: list[tuple[Action, str]] = []
            for action in self._candidates(ranked, segment.action, rng):
                text = self.text_of(action, used, rng)
                if text is None:
                    self.summary.same_text += 1
                    continue
                used.add(same_text(text))
                chosen.append((action, text))
                if len(chosen) == wanted:
                    break
            options = chosen if structured else [(segment.action, truth), *chosen]
            first = ranked[0] if structured else None
            yield segment, self._question(segment, options, first) if len(options) == self.count else None

    def _question(
        self, segment: Segment, options: Sequence[tuple[Action, str]], first: Action | None = None
    ) -> Question:
        """The options in an order that is drawn by the segment's id."""
        order = np.random.default_rng([self.seed, 4, zlib.crc32(segment.id.encode())]).permutation(self.count)
        shown = [options[place] for place in order]
        actions = [action for action, _ in shown]
        return Question(
            segment=segment,
            options=tuple(text for _, text in shown),
            actions=tuple(actions),
            answer=actions.index(segment.action) if segment.action in actions else None,
            first=first,
        )

    def true_text(self, segment: Segment) -> str:
        """How the segment's own action is written: its narration, possibly empty, or its label."""
        return segment.narration if self.style == "narration" else self.classes.label(segment.action)

    def _candidates(self, ranked: Sequence[Action], truth: Action, rng: np.random.Generator) -> list[Action]:
        """Classes in the order in which they are tried, the true one left out but for structured questions."""
        known = [action for action in ranked if action in self.classes.index]
        self.summary.unknown += len(ranked) - len(known)
        if self.mode == "structured":
            return known
        others = [action for action in known if action != truth]
        if self.mode == "benchmark":
            return others
        pool = others[: MULTIPLIER * self.count]
        drawn = [pool[index] for index in rng.permutation(len(pool))]
        return drawn + others[len(pool) :]  # these are reached only where texts of drawn classes are the same

    def text_of(self, action: Action, used: set[str], rng: np.random.Generator) -> str | None:
        """A text of the class that is not used yet, or None."""
        if self.style == "label":
            label = self.classes.label(action)
            return None if same_text(label) in used else label
        pool = {text: n for text, n in self.classes.narrations[action].items() if same_text(text) not in used}
        if not pool:
            return None
        texts = sorted(pool)
        weights = np.array([pool[text] for text in texts], dtype=np.float64)
        return texts[int(rng.choice(len(texts), p=weights / weights.sum()))]


def question_row(
    question: Question,
    text: str,
    duration: float,
    video: str,
    dataset: str = "",
    split: str = "",
    priors: Sequence[tuple[Segment, str]] = (),
) -> Row:
    """The question as a row of the common schema, with all that the training views need in ``meta``.

    ``query`` is ``text``, how the segment's own action is written, ``windows`` the segment and ``duration`` its video's
    length, seconds. ``priors``
    are the segments right before with their texts, earliest first; their ``offset`` is how many seconds before this
    one they started.
    """
    segment = question.segment
    meta: dict[str, Any] = {
        "options": list(question.options),
        "option_classes": [action_key(action) for action in question.actions],
        "answer": question.letter,
        "verb_class": segment.verb,
        "noun_class": segment.noun,
    }
    if question.first is not None:
        meta["first"] = action_key(question.first)
    if priors:
        meta["priors"] = [
            {"id": prior.id, "narration": text, "offset": round(segment.start - prior.start, 2)}
            for prior, text in priors
        ]
    return Row(
        id=segment.id,
        video=video,
        duration=duration,
        query=text,
        windows=((segment.start, segment.end),),
        dataset=dataset,
        split=split,
        meta=meta,
    )


def check_question(row: Row) -> None:
    """Refuse a row that is no question; raises `DataError` naming the row and what is wrong with it."""
    where = f"row {row.id!r}"
    options, answer = row.meta.get("options"), row.meta.get("answer")
    structured = "first" in row.meta and answer is None
    several = row.meta.get("answers")
    if not isinstance(options, Sequence) or isinstance(options, str) or not 2 <= len(options) <= len(LETTERS):
        raise DataError(f"{where}: meta.options must list 2 to {len(LETTERS)} texts; build questions with build-mqa")
    if several is not None:
        if not isinstance(several, list) or not several or not all(is_letter(x, len(options)) for x in several):
            raise DataError(f"{where}: meta.answers {several!r} are not letters of its {len(options)} options")
    elif not structured and not is_letter(answer, len(options)):
        raise DataError(f"{where}: meta.answer {answer!r} is not the letter of one of its {len(options)} options")
    if len({same_text(str(option)) for option in options}) < len(options):
        raise DataError(f"{where}: two options have the same text")


def is_letter(answer: object, count: int) -> bool:
    """Whether ``answer`` is the letter of one of ``count`` options."""
    return isinstance(answer, str) and len(answer) == 1 and answer in LETTERS[:count]


def options_text(options: Sequence[str]) -> str:
    """``A. take plate`` and so on, one option per line."""
    return "\n".join(f"{LETTERS[place]}. {text}" for place, text in enumerate(options))


def class_labels(row: Row, classes: Mapping[str, int]) -> tuple[int, int, int]:
    """Verb, noun and action class of a row for the heads; -1 where it has none or ``classes`` does not know it."""
    verb, noun = row.meta.get("verb_class"), row.meta.get("noun_class")
    if verb is None or noun is None:
        return -1, -1, -1
    return int(verb), int(noun), classes.get(action_key((int(verb), int(noun))), -1)
