"""Option sets that say nothing about which of their options is true: clips lend each other their actions.

Clips with different actions that are easily confused are put into groups of K. The options of each of them are the
actions of all, so that a set is as likely asked with one of its options true as with another: whatever a rule makes of
the options, of how alike, how frequent or how long they are, it is right in 1 / K of the questions. What a rule could
still use are the actions around a clip in its video, which are mostly about the same things, and the clip's length and
place, which tell a little about its verb and noun. So the groups prefer options that fit each other's surroundings,
lengths and places, as much as is needed to make a clip's own action fit its own no better than the other options do.

Sets that are asked more than once with another answer each time would be telling in their own way: there are several
such partitions, and a clip takes its set from one of them, drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from data_prep.progress import progress
from invert_rl.llavaction.questions.neighbours import neighbours_of
from invert_rl.llavaction.questions.text_similarity import words
from invert_rl.llavaction.segments import Segment, last_end, same_text

PARTITIONS = 6
"""A set is asked K / 6 times on average."""
BLOCK = 2048
"""Clips, of whole videos, that are grouped among each other: bounds memory, and time grows with it."""
WARM_UP = 4096
"""Clips that are grouped for nothing first, until the preference for fitting surroundings is what it has to be."""
GAIN = 0.02
"""How strongly the preference for fitting surroundings answers to the advantage that true options have had so far."""
MOST = 8.0
"""Largest such preference; a specialist's best class weighs 1."""
SHRINKAGE = 5.0
"""Clips of average length and place that each verb and noun is thought to have besides its own."""
NOISE = {"benchmark": 1e-3, "train": 0.3}
"""What is added to closeness at random, at most: in training, so that not always the hardest are taken."""


@dataclass(frozen=True)
class Clips:
    """What grouping knows of the clips."""

    segments: Sequence[Segment]
    texts: Sequence[str]
    """How each clip's action is written."""
    closest: np.ndarray
    """int32 (clips, some): the class numbers that a specialist takes each clip for, hardest first; -1 for none."""
    classes: np.ndarray
    """int64 (clips,): the class number of each clip."""
    number: int
    """Of classes."""


def exchange_sets(clips: Clips, count: int, mode: str, seed: int) -> tuple[list[list[int]], int]:
    """For each clip the places of the ``count`` clips whose actions are its options, itself among them.

    ``mode`` is "benchmark" (the hardest groups) or "train". Also returned is how many clips found no group and had
    options chosen for them alone; the set of a clip that finds not even these is empty.
    """
    rng = np.random.default_rng([seed, 3])
    grouper = Grouper(clips, count, NOISE[mode], rng)
    total = len(clips.segments)
    for _ in range(math.ceil(WARM_UP / max(1, total))):
        for block in blocks_of(clips.segments, rng):
            grouper.groups(block)
    partitions: list[dict[int, list[int]]] = []
    for _ in progress(range(PARTITIONS), "option sets", total=PARTITIONS):
        groups: dict[int, list[int]] = {}
        for block in blocks_of(clips.segments, rng):
            for group in grouper.groups(block):
                groups |= dict.fromkeys(group, group)
        partitions.append(groups)
    sets: list[list[int]] = []
    alone = 0
    for place, first in enumerate(rng.integers(PARTITIONS, size=total)):
        order = [partitions[(first + turn) % PARTITIONS] for turn in range(PARTITIONS)]
        found = next((groups[place] for groups in order if place in groups), None)
        if found is None:
            found = grouper.alone(place)
            alone += bool(found)
        sets.append(found)
    return sets, alone


def blocks_of(segments: Sequence[Segment], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """All places, shuffled video by video, in blocks of about `BLOCK`."""
    by_video: dict[str, list[int]] = {}
    for place, segment in enumerate(segments):
        by_video.setdefault(segment.video, []).append(place)
    videos = list(by_video.values())
    blocks: list[list[int]] = [[]]
    for number in rng.permutation(len(videos)):
        if len(blocks[-1]) >= BLOCK:
            blocks.append([])
        blocks[-1] += videos[number]
    if len(blocks) > 1 and len(blocks[-1]) < BLOCK // 2:
        rest = blocks.pop()
        blocks[-1] += rest
    yield from (np.array(block) for block in blocks)


class Grouper:
    """Puts clips into groups, keeping account of how well true options have fitted their surroundings."""

    def __init__(self, clips: Clips, count: int, noise: float, rng: np.random.Generator) -> None:
        self.clips, self.count, self.noise, self.rng = clips, count, noise, rng
        numbers: dict[str, int] = {}
        self.texts = np.array([numbers.setdefault(same_text(text), len(numbers)) for text in clips.texts])
        segments = clips.segments
        self.marks = [
            one_hot([[segment.noun] for segment in segments]),
            one_hot([[segment.verb] for segment in segments]),
            one_hot([[int(number)] for number in clips.classes]),
            one_hot([words(text) for text in clips.texts]),
        ]
        """Of each clip its noun, its verb, its class and its words, (clips, marks)."""
        before, after = neighbours_of([s.video for s in segments], [(s.start, s.end) for s in segments])
        near = one_hot([[*b, *a] for b, a in zip(before, after, strict=True)], len(segments))
        self.around = [near @ marks for marks in self.marks]
        """How often each mark is among the neighbours of each clip."""
        lengths = np.log([max(segment.end - segment.start, 0.01) for segment in segments])
        last = last_end(segments)
        places = np.array([segment.start / max(last[segment.video], 0.01) for segment in segments])
        self.usual = [
            (usual_ranks(values, numbers), numbers)
            for values in (lengths, places)
            for numbers in (np.array([s.noun for s in segments]), np.array([s.verb for s in segments]))
        ]
        """How usual each clip's length, or place, is for each noun or verb (clips, classes), and those of the clips."""
        self.advantage = np.zeros(len(self.marks) + len(self.usual))
        """By kind of fit: how much better true options have fitted their clips so far than the others, summed."""

    def fits(self, block: np.ndarray) -> list[np.ndarray]:
        """How well the second clip's action fits where the first one lies, each float32 (block, block).

        First marks in common with the surroundings, then how usual the first one's length or place is for the second's
        noun or verb.
        """
        found = [(a[block] @ m[block].T).toarray() for a, m in zip(self.around, self.marks, strict=True)]
        return found + [ranks[np.ix_(block, numbers[block])] for ranks, numbers in self.usual]

    def groups(self, block: np.ndarray) -> list[list[int]]:
        """Groups of ``count`` clips of a block, each with different classes and texts; a few clips stay without."""
        classes, texts = self.clips.classes[block], self.texts[block]
        close = self._closeness(block)
        fits = self.fits(block)
        both = [fit + fit.T for fit in fits]
        free = np.ones(len(block), dtype=bool)
        found: list[list[int]] = []
        for first in self.rng.permutation(len(block)):
            if not free[first]:
                continue
            weights = np.clip(GAIN * self.advantage, -MOST, MOST)
            group = [int(first)]
            total = self.noise * self.rng.random(len(block), dtype=np.float32)
            allowed = free.copy()
            while len(group) < self.count:
                last = group[-1]
                total += close[last]
                for weight, fit in zip(weights, both, strict=True):
                    total += np.float32(weight) * fit[last]
                allowed &= (classes != classes[last]) & (texts != texts[last])
                best = int(np.where(allowed, total, -np.inf).argmax())
                if not allowed[best]:
                    break
                group.append(best)
            if len(group) < self.count:
                continue
            free[group] = False
            found.append([int(block[member]) for member in group])
            for kind, fit in enumerate(fits):
                inside = fit[np.ix_(group, group)]
                own = float(np.trace(inside))
                self.advantage[kind] += own - (float(inside.sum()) - own) / (self.count - 1)
        return found

    def alone(self, place: int) -> list[int]:
        """A clip with the closest others of different classes and texts, whether these ask with it or not; or none."""
        others = self.rng.permutation(len(self.clips.segments))
        ranks = {int(number): rank for rank, number in enumerate(self.clips.closest[place])}
        order = sorted(others, key=lambda other: ranks.get(int(self.clips.classes[other]), len(ranks)))
        group = [place]
        used_classes, used_texts = {self.clips.classes[place]}, {self.texts[place]}
        for other in order:
            if self.clips.classes[other] in used_classes or self.texts[other] in used_texts:
                continue
            group.append(int(other))
            used_classes.add(self.clips.classes[other])
            used_texts.add(self.texts[other])
            if len(group) == self.count:
                return group
        return []

    def _closeness(self, block: np.ndarray) -> np.ndarray:
        """float32 (block, block), symmetric: how readily the specialist takes one clip for the other's class.

        A clip's first class counts 1, later ones less by the logarithm of their rank, both ways added up.
        """
        closest = self.clips.closest[block]
        ranks = np.arange(closest.shape[1])
        worth = (1 - np.log2(1 + ranks) / math.log2(2 + closest.shape[1])).astype(np.float32)
        table = np.zeros((len(block), self.clips.number + 1), dtype=np.float32)  # the last column takes those of -1
        table[np.arange(len(block))[:, None], closest] = worth
        table[:, -1] = 0
        one_way = table[:, self.clips.classes[block]]
        return one_way + one_way.T


def usual_ranks(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """How usual each clip's value is for each class of nouns or verbs: float32 (clips, classes), from 0 to 1.

    It is the rank of the class's likelihood (normal, drawn towards all clips') among those of all clips' classes, since
    likelihoods themselves have long tails. ``values`` and ``numbers`` (a class each) are (clips,).
    """
    count = np.bincount(numbers)
    mean = (np.bincount(numbers, values) + SHRINKAGE * values.mean()) / (count + SHRINKAGE)
    square = (np.bincount(numbers, values**2) + SHRINKAGE * np.mean(values**2)) / (count + SHRINKAGE)
    deviation = np.sqrt(np.maximum(square - mean**2, 1e-6))
    likelihood = -0.5 * ((values[:, None] - mean) / deviation) ** 2 - np.log(deviation)
    order = np.argsort(likelihood, axis=1, kind="stable")
    share = count[order].cumsum(1) - count[order] / 2
    ranks = np.empty_like(likelihood, dtype=np.float32)
    np.put_along_axis(ranks, order, (share / len(values)).astype(np.float32), axis=1)
    return ranks


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
