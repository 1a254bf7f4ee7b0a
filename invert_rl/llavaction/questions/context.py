"""What is known of a clip besides its options: the actions around it, its length and its place in the video.

All of it tells a little about which action is the clip's own. `exchange` and `drawing` see to it that wrong options fit
it as well as the true one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from invert_rl.llavaction.questions.neighbours import neighbours_of
from invert_rl.llavaction.questions.text_similarity import words
from invert_rl.llavaction.segments import Segment, same_text

LEAST = -10.0
"""Log-likelihoods of lengths and places are no smaller."""
WIDE = 5
"""How many questions before and after a clip count where it is about what these offer."""
SHRINKAGE = 5.0
"""Clips of average length and place that each verb and noun is thought to have besides its own."""


@dataclass(frozen=True)
class Clips:
    """The clips that options are chosen for."""

    segments: Sequence[Segment]
    texts: Sequence[str]
    """How each clip's action is written."""
    closest: np.ndarray
    """int32 (clips, some): the class numbers that a specialist takes each clip for, hardest first; -1 for none."""
    classes: np.ndarray
    """int64 (clips,): the class number of each clip."""
    number: int
    """Of classes."""


class Context:
    """How well any clip's action fits where another clip lies."""

    def __init__(self, clips: Clips) -> None:
        segments = clips.segments
        numbers: dict[str, int] = {}
        self.texts = np.array([numbers.setdefault(same_text(text), len(numbers)) for text in clips.texts])
        self.marks = [
            one_hot([[segment.noun] for segment in segments]),
            one_hot([[segment.verb] for segment in segments]),
            one_hot([[int(number)] for number in clips.classes]),
            one_hot([words(text) for text in clips.texts]),
        ]
        """Of each clip its noun, its verb, its class and its words, (clips, marks)."""
        self.near = neighbourhood(segments)
        self.around = [self.near @ marks for marks in self.marks]
        """How often each mark is among the neighbours of each clip, (clips, marks)."""
        self.wide = neighbourhood(segments, WIDE)
        self.texts_around = self.wide @ one_hot([[int(number)] for number in self.texts], len(numbers))
        """How often each text is true around each clip, (clips, texts)."""
        places: dict[str, int] = {}
        self.videos = np.array([places.setdefault(segment.video, len(places)) for segment in segments])
        self.of_video = one_hot([[int(number)] for number in self.videos], len(places)).T.tocsr()
        """Which clips are each video's, (videos, clips)."""
        self.letters = np.array([len(text) for text in clips.texts])
        self.lengths = np.log([max(segment.end - segment.start, 0.01) for segment in segments]).astype(np.float32)
        """Logarithms of seconds."""
        starts = np.log([max(segment.start, 1.0) for segment in segments])
        self.usual = [
            (likelihoods(values, numbers), numbers)
            for values in (self.lengths.astype(np.float64), starts)
            for numbers in (np.array([s.noun for s in segments]), np.array([s.verb for s in segments]))
        ]
        """How usual each clip's length, or place, is for each noun or verb (clips, classes), and those of the clips."""

    def fits(self, block: np.ndarray) -> list[np.ndarray]:
        """What the second clip's action has in common with the first one's neighbours: each float32 (block, block)."""
        return [(a[block] @ m[block].T).toarray() for a, m in zip(self.around, self.marks, strict=True)]

    def usual_lengths(self, block: np.ndarray) -> np.ndarray:
        """How usual the first clip's length is for the second one's noun and verb: float32 (block, block)."""
        return np.sum([usual[np.ix_(block, kinds[block])] for usual, kinds in self.usual[:2]], axis=0)


def neighbourhood(segments: Sequence[Segment], reach: int | None = None) -> sparse.csr_matrix:
    """float32 (clips, clips): 1 for those ``reach`` before and after each one in its video, as `neighbours_of`."""
    arguments = [segment.video for segment in segments], [(segment.start, segment.end) for segment in segments]
    before, after = neighbours_of(*arguments) if reach is None else neighbours_of(*arguments, reach)
    return one_hot([[*b, *a] for b, a in zip(before, after, strict=True)], len(segments))


def likelihoods(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """How usual each clip's value is for each class of nouns or verbs: float32 (clips, classes).

    It is a normal log-likelihood by the class's other clips, and `SHRINKAGE` average ones. ``values`` and ``numbers``
    (a class each) are (clips,).
    """
    width = int(numbers.max()) + 1
    own = np.eye(width, dtype=bool)[numbers]
    counts, sums, squares = (
        np.bincount(numbers, weights, width) - own * weights[:, None] + SHRINKAGE * float(weights.mean())
        for weights in (np.ones(len(values)), values, values**2)
    )
    mean = sums / counts
    variance = np.maximum(squares / counts - mean**2, 1e-6)
    found = -0.5 * ((values[:, None] - mean) ** 2 / variance + np.log(variance))
    return np.maximum(found, LEAST).astype(np.float32)


def one_hot(items: Sequence[Sequence[int] | Sequence[str]], width: int | None = None) -> sparse.csr_matrix:
    """float32 (items, names): 1 where an item has a name; ``width`` if the names are numbers below it already."""
    names: dict[object, int] = {}
    rows, columns = [], []
    for row, item in enumerate(items):
        for name in set(item):
            rows.append(row)
            columns.append(name if width is not None else names.setdefault(name, len(names)))
    shape = (len(items), len(names) if width is None else width)
    return sparse.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
