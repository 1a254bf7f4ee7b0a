"""Option sets that say nothing about which of their options is true: clips lend each other their actions.

Clips with different actions that are easily confused are put into groups of K. The options of each of them are the
actions of all, so that a set is as likely asked with one of its options true as with another: whatever a rule makes of
the options, of how alike, how frequent or how long they are, it is right in 1 / K of the questions. What a rule could
still use is what is known of the clip (`context`). So groups prefer clips that are equally long, which leaves nothing
to be made of their length, and options that fit each other's surroundings: as much as is needed to make a clip's own
action fit it no better than the other options do.

Sets that are asked more than once with another answer each time would be telling in their own way: there are several
such partitions, and a clip takes its set from one of them, drawn so that what is left tells as little as possible
(`drawing`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from data_prep.progress import progress
from invert_rl.llavaction.questions.context import Clips, Context
from invert_rl.llavaction.questions.drawing import draw_sets
from invert_rl.llavaction.segments import Segment

PARTITIONS = 20
"""A set is asked K / 20 times on average."""
BLOCK = 2048
"""Clips, of whole videos, that are grouped among each other: bounds memory, and time grows with it."""
WARM_UP = 4096
"""Clips that are grouped for nothing first, until the preference for fitting surroundings is what it has to be."""
GAIN = 0.02
"""How strongly the preference for fitting surroundings answers to the advantage that true options have had so far."""
MOST = 8.0
"""Largest such preference; a specialist's best class weighs 1."""
UNEQUAL = 10.0
"""Most that closeness loses where one clip is e times as long as the other; a specialist's best class weighs 1."""
NOISE = {"benchmark": 1e-3, "train": 0.3}
"""What is added to closeness at random, at most: in training, so that not always the hardest are taken."""


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
    sets = np.broadcast_to(np.arange(total)[:, None, None], (total, PARTITIONS, count)).copy()
    there = np.zeros((total, PARTITIONS), dtype=bool)
    for number, groups in enumerate(partitions):
        for place, group in groups.items():
            sets[place, number], there[place, number] = group, True
    lonely = np.flatnonzero(~there.any(1)).tolist()
    chosen = {place: grouper.alone(place) for place in lonely}
    for place, group in chosen.items():
        sets[place, 0], there[place, 0] = group or place, True
    drawn = draw_sets(grouper.context, sets, there, rng)
    taken = sets[np.arange(total), drawn].tolist()
    return [chosen.get(place, found) for place, found in enumerate(taken)], sum(map(bool, chosen.values()))


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
        self.context = Context(clips)
        self.texts = self.context.texts
        self.advantage = np.zeros(len(self.context.marks))
        """By kind of mark: how much more true options have had in common with their clips' neighbours so far than the
        others, summed."""
        self.advantage_of_length = 0.0
        """Likewise, how much more usual a clip's length is for its own action than for the others of its group."""

    def groups(self, block: np.ndarray) -> list[list[int]]:
        """Groups of ``count`` clips of a block, each with different classes and texts; a few clips stay without."""
        classes, texts = self.clips.classes[block], self.texts[block]
        close = self._closeness(block)
        fits = self.context.fits(block)
        both = [fit + fit.T for fit in fits]
        usual = self.context.usual_lengths(block)
        lengths = self.context.lengths[block]
        free = np.ones(len(block), dtype=bool)
        found: list[list[int]] = []
        for first in self.rng.permutation(len(block)):
            if not free[first]:
                continue
            weights = np.clip(GAIN * self.advantage, -MOST, MOST)
            unequal = np.float32(np.clip(GAIN * self.advantage_of_length, 0, UNEQUAL))
            group = [int(first)]
            total = self.noise * self.rng.random(len(block), dtype=np.float32)
            allowed = free.copy()
            while len(group) < self.count:
                last = group[-1]
                total += close[last] - unequal * np.abs(lengths - lengths[last])
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
                self.advantage[kind] += advantage(fit[np.ix_(group, group)])
            self.advantage_of_length += advantage(usual[np.ix_(group, group)])
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


def advantage(fits: np.ndarray) -> float:
    """How much better the actions of a group fit their own clips than the group's other clips, summed over the group.

    ``fits`` (K, K): how well the second clip's action fits the first one.
    """
    own = float(np.trace(fits))
    return own - (float(fits.sum()) - own) / (len(fits) - 1)
