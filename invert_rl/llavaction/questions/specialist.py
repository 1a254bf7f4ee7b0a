"""Which classes a specialist confuses with which: rankings of classes for each segment, from files or from labels."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_prep.errors import DataError
from data_prep.files import read_json
from invert_rl.llavaction.questions.text_similarity import pieces
from invert_rl.llavaction.segments import Action, ClassMap, Segment, action_key, parse_action

RANDOM, SIMILARITY = "random", "text-similarity"


class NoPrediction(Exception):
    """A segment that a specialist says nothing usable about; the message is the reason."""


class Specialist(Protocol):
    """Ranks classes for a segment."""

    description: str
    """What the summary says about where the rankings come from."""
    knows_truth: bool
    """Whether the rankings are made from the true class, so that their recall says nothing."""

    def ranked(self, place: int, segment: Segment) -> Sequence[Action]:
        """Classes for the segment in that row of its file, best first; raises `NoPrediction`."""
        ...


class RankedLists:
    """Rankings of a JSON file.

    The file is one object whose keys are the row numbers of the csv from 0, or the segments' ids. A value is
    ``{"predictions": ["v:n", …]}``, best first (with ``"target": "v:n"``, which is compared with the csv), or
    ``{"v:n": score, …}`` with a higher score for a more likely class.
    """

    knows_truth = False

    def __init__(self, path: str | os.PathLike[str], rows: int) -> None:
        content = read_json(path)
        if not isinstance(content, dict) or not content:
            raise DataError(f"{path}: expected one object of predictions by row number or segment id")
        self.path = Path(path)
        self.description = f"{self.path.name}: predictions of a model"
        self.content: dict[str, Any] = content
        numbers = [key for key in content if key.isdigit()]
        self.by_row = len(numbers) == len(content)
        if self.by_row and max(map(int, numbers)) >= rows:
            raise DataError(
                f"{path}: has a row {max(map(int, numbers))}, the annotations end at row {rows - 1}; is it of another "
                "file?"
            )

    def ranked(self, place: int, segment: Segment) -> Sequence[Action]:
        key = str(place) if self.by_row else segment.id
        if key not in self.content:
            raise NoPrediction("the specialist has no prediction")
        where = f"{self.path}: entry {key!r}"
        value = self.content[key]
        if not isinstance(value, dict):
            raise DataError(f"{where}: expected an object with 'predictions' or scores by class")
        if "predictions" not in value:
            scores = {parse_action(name, where): score for name, score in value.items()}
            if not all(_is_finite(score) for score in scores.values()):
                raise NoPrediction("a score is not a finite number")
            return sorted(scores, key=lambda action: (-scores[action], action))
        if "target" in value and parse_action(value["target"], where) != segment.action:
            raise DataError(
                f"{where}: its target is {value['target']}, segment {segment.id} has {action_key(segment.action)}; the "
                "predictions are of other annotations"
            )
        return list(dict.fromkeys(parse_action(name, where) for name in value["predictions"]))


class ScoreArrays:
    """Rankings of an npz file of class scores.

    ``scores`` of shape (segments, classes) with ``classes``, the names ``"v:n"`` of its columns; or ``verb_scores``
    (segments, verbs) and ``noun_scores`` (segments, nouns), probabilities whose product is the score of an action.
    ``ids`` names the segments of the rows; without it they are those of the annotations, in their order.
    """

    knows_truth = False

    def __init__(self, path: str | os.PathLike[str], segments: Sequence[Segment], classes: ClassMap) -> None:
        self.path = Path(path)
        self.description = f"{self.path.name}: class scores of a model"
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file") from error
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not an npz file of plain arrays ({error})") from error
        if {"scores", "classes"} <= arrays.keys():
            self.scores = arrays["scores"]
            self.columns = [parse_action(name, f"{path}: classes") for name in arrays["classes"].tolist()]
            shapes_fit = self.scores.ndim == 2 and self.scores.shape[1] == len(self.columns)
        elif {"verb_scores", "noun_scores"} <= arrays.keys():
            verbs, nouns = arrays["verb_scores"], arrays["noun_scores"]
            self.columns = list(classes.actions)
            shapes_fit = verbs.ndim == nouns.ndim == 2 and len(verbs) == len(nouns)
            if shapes_fit and (verbs.shape[1] < classes.verbs or nouns.shape[1] < classes.nouns):
                raise DataError(
                    f"{path}: scores of {verbs.shape[1]} verbs and {nouns.shape[1]} nouns, the annotations have "
                    f"{classes.verbs} and {classes.nouns}"
                )
            if shapes_fit and (np.nanmin(verbs) < 0 or np.nanmin(nouns) < 0):
                raise DataError(f"{path}: verb_scores and noun_scores must be probabilities; take their softmax")
            self.scores = np.concatenate([verbs, nouns], axis=1)
            self.verbs_in_scores = verbs.shape[1]
        else:
            raise DataError(
                f"{path}: expected the arrays scores and classes, or verb_scores and noun_scores; it has "
                f"{', '.join(arrays)}"
            )
        self.factored = "scores" not in arrays
        if not shapes_fit or not np.issubdtype(self.scores.dtype, np.number):
            raise DataError(f"{path}: the arrays' shapes do not fit: { ({n: a.shape for n, a in arrays.items()}) }")
        self.rows: dict[str, int] | None = None
        if "ids" in arrays:
            self.rows = {str(name): row for row, name in enumerate(arrays["ids"].tolist())}
            if len(self.rows) != len(self.scores):
                raise DataError(f"{path}: {len(self.rows)} different ids for {len(self.scores)} rows of scores")
        elif len(self.scores) != len(segments):
            raise DataError(
                f"{path}: {len(self.scores)} rows of scores for {len(segments)} segments; add an array ids that names "
                "them"
            )

    def ranked(self, place: int, segment: Segment) -> Sequence[Action]:
        row = place if self.rows is None else self.rows.get(segment.id)
        if row is None:
            raise NoPrediction("the specialist has no prediction")
        scores = np.asarray(self.scores[row], dtype=np.float64)
        if not np.isfinite(scores).all():
            raise NoPrediction("a score is not a finite number")
        if self.factored:
            pairs = np.asarray(self.columns)
            scores = scores[pairs[:, 0]] * scores[self.verbs_in_scores + pairs[:, 1]]
        return [self.columns[column] for column in np.argsort(-scores, kind="stable")]


class RandomClasses:
    """No specialist: distractors are drawn from all other classes (paper, eq. 2).

    ``by`` is "classes" (each other class equally likely, as the released code does) or "narrations" (each other
    narration equally likely, as eq. 2 says: frequent classes come up more often).
    """

    knows_truth = True
    description = "random: no specialist, distractors are drawn from all other classes"

    def __init__(self, classes: ClassMap, seed: int, by: str = "narrations") -> None:
        if by not in ("classes", "narrations"):
            raise ValueError(f"random distractors are drawn by 'classes' or 'narrations', found {by!r}")
        self.actions = classes.actions
        self.weights = np.ones(len(self.actions))
        if by == "narrations":
            self.weights = np.array([max(1, sum(classes.narrations[action].values())) for action in self.actions])
        self.seed = seed

    def ranked(self, place: int, segment: Segment) -> Sequence[Action]:
        rng = np.random.default_rng([self.seed, 1, place])
        keys = rng.standard_exponential(len(self.actions)) / self.weights  # drawn by weight, without repetition
        return [self.actions[index] for index in np.argsort(keys, kind="stable")]


class TextSimilarity:
    """A stand-in for users without a specialist: the classes whose labels look most like the true class's.

    Labels are compared as counts of their words and of the three-letter pieces of these (cosine); of equally similar
    classes the more frequent comes first. It is made from the true class, sees no video and knows nothing of what
    looks alike: its questions are not those of a benchmark.
    """

    knows_truth = True
    description = "text-similarity of the labels, not a model: made from the true class, no video was looked at"

    def __init__(self, classes: ClassMap) -> None:
        self.actions = classes.actions
        self.index = classes.index
        labels = [pieces(classes.label(action)) for action in self.actions]
        names = {name: column for column, name in enumerate(sorted({piece for found in labels for piece in found}))}
        counts = np.zeros((len(labels), len(names)), dtype=np.float32)
        for row, found in enumerate(labels):
            for piece in found:
                counts[row, names[piece]] += 1
        self.vectors = counts / np.linalg.norm(counts, axis=1, keepdims=True)
        frequency = np.array([sum(classes.narrations[action].values()) for action in self.actions], dtype=np.float64)
        self.frequency = frequency / max(1.0, frequency.max())
        self._rankings: dict[Action, list[Action]] = {}

    def ranked(self, place: int, segment: Segment) -> Sequence[Action]:
        if segment.action not in self._rankings:
            similarity = np.round(self.vectors @ self.vectors[self.index[segment.action]], 4).astype(np.float64)
            order = np.lexsort((-self.frequency, -similarity))
            ranking = [self.actions[column] for column in order if self.actions[column] != segment.action]
            self._rankings[segment.action] = [segment.action, *ranking]
        return self._rankings[segment.action]


def read_specialist(
    name: str, segments: Sequence[Segment], classes: ClassMap, seed: int, random_over: str = "narrations"
) -> Specialist:
    """The specialist that a command line names: "random", "text-similarity", or a file ending in .json or .npz."""
    if name == RANDOM:
        return RandomClasses(classes, seed, random_over)
    if name == SIMILARITY:
        return TextSimilarity(classes)
    if Path(name).suffix == ".npz":
        return ScoreArrays(name, segments, classes)
    if Path(name).name.removesuffix(".gz").endswith(".json"):
        return RankedLists(name, len(segments))
    raise DataError(f"{name}: a specialist is {RANDOM!r}, {SIMILARITY!r}, or a file ending in .json or .npz")


def _is_finite(score: object) -> bool:
    return isinstance(score, int | float) and not isinstance(score, bool) and bool(np.isfinite(score))
