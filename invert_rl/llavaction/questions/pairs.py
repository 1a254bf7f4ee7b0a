"""Pairs of clips: how well the second one's action, as an option, fits where the first lies and what it is asked with.

These are the features of the attacker that `drawing` draws option sets against.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from invert_rl.llavaction.questions.context import Context, one_hot

CHUNK = 50_000
"""Pairs that are compared at a time."""


class Pairs:
    """All options of all sets that clips can take.

    Args:
        context: of the clips.
        sets: int64 (clips, sets, K): the clips whose actions each of a clip's sets offers.
    """

    def __init__(self, context: Context, sets: np.ndarray) -> None:
        self.context, self.sets = context, sets
        self.first = np.broadcast_to(np.arange(len(sets))[:, None, None], sets.shape).ravel()
        self.second = sets.ravel()
        self.texts = one_hot([[int(text)] for text in context.texts], int(context.texts.max()) + 1)
        words = context.marks[-1]
        self.count = np.maximum(np.diff(words.indptr)[self.second], 1)
        """Words of each second clip's text."""
        self.pair = np.repeat(np.arange(len(self.second)), np.diff(words.indptr)[self.second])
        self.word = words[self.second].indices
        """Each word of each second clip's text, and the pair that it is of."""

    def known(self) -> np.ndarray:
        """All that does not depend on which sets are taken: float32 (clips, sets, K, features).

        What the second clip's action has in common with the first one's neighbours, with the other clips of its video
        (whether and how often it is true there, and its words) and with the other options; how usual length and place
        are for its verb and noun; how often its words are true anywhere; how long its text is.
        """
        context, first, second = self.context, self.first, self.second
        found = [
            np.concatenate([_dot(a[first[at]], m[second[at]]) for at in _chunks(len(first))])
            for a, m in zip(context.around, context.marks, strict=True)
        ]
        numbers = context.marks[2].indices  # a clip has one class
        for items in (numbers, context.texts):
            true = context.of_video @ one_hot([[int(item)] for item in items], int(items.max()) + 1)
            elsewhere = look_up(true, context.videos[first], items[second]) - (items[first] == items[second])
            found += [elsewhere > 0, np.log1p(elsewhere)]
        found.append(look_up(context.texts_around, first, context.texts[second]) > 0)
        own = look_up(context.marks[-1], first[self.pair], self.word)
        found.append(self._by_words(look_up(context.of_video @ context.marks[-1], self._videos(), self.word) - own))
        found += [usual[first, kinds[second]] for usual, kinds in context.usual]
        for marks in context.marks:
            both = [_shared(marks, self.sets[at]) for at in _chunks(len(self.sets), CHUNK // self.sets[0].size + 1)]
            found.append(np.concatenate(both).ravel())
        found.append(self._by_words(_sums(context.marks[-1])[self.word]))
        found += [context.letters[second], self.count]
        return self._table(found)

    def offered(self, taken: np.ndarray) -> np.ndarray:
        """What the questions around offer if each clip takes a set, ``taken`` (clips, K): float32 (clips, sets, K, 9).

        How often those near and around it offer the second clip's text, how much more than everywhere; its noun; in the
        whole video its words; and how often its text and its class are offered anywhere.
        """
        context, first, second = self.context, self.first, self.second
        members = sparse.csr_matrix(
            (np.ones(taken.size, dtype=np.float32), taken.ravel(), np.arange(len(taken) + 1) * taken.shape[1]),
            shape=(len(taken), len(taken)),
        )
        texts, nouns, classes = members @ self.texts, context.marks[0], context.marks[2]
        near = look_up(context.near @ texts, first, context.texts[second])
        around = look_up(context.wide @ texts, first, context.texts[second])
        anywhere = [
            _sums(offers)[items[second]] + 1 - look_up(offers, first, items[second])  # as if the set was taken
            for offers, items in ((texts, context.texts), (members @ classes, classes.indices))
        ]
        share = anywhere[0] / taken.size
        noun = look_up(context.near @ (members @ nouns), first, nouns.indices[second])
        words = look_up(context.of_video @ (members @ context.marks[-1]), self._videos(), self.word)
        counts = [near, around, noun, *anywhere]
        lift = np.log((around + share) / share)
        return self._table([*map(np.log1p, counts), *(1 / count for count in anywhere), lift, self._by_words(words)])

    def _videos(self) -> np.ndarray:
        return self.context.videos[self.first[self.pair]]

    def _by_words(self, counts: np.ndarray) -> np.ndarray:
        """Mean logarithm, over the words of each pair's second text, of how often each of them is there."""
        return np.bincount(self.pair, np.log1p(counts), len(self.second)) / self.count

    def _table(self, features: list[np.ndarray]) -> np.ndarray:
        table = np.stack([np.asarray(feature, dtype=np.float32) for feature in features], axis=-1)
        return table.reshape(*self.sets.shape, -1)


def look_up(table: sparse.csr_matrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Single cells of a sparse table, float32 (cells,); fast where neighbouring cells are of neighbouring rows."""
    found = np.empty(len(rows), dtype=np.float32)
    for at in _chunks(len(rows)):
        first = rows[at].min()
        found[at] = table[first : rows[at].max() + 1].toarray()[rows[at] - first, columns[at]]
    return found


def _sums(table: sparse.csr_matrix) -> np.ndarray:
    """Of each column."""
    return np.asarray(table.sum(0)).ravel()


def _dot(a: sparse.csr_matrix, b: sparse.csr_matrix) -> np.ndarray:
    """Row by row."""
    return np.asarray(a.multiply(b).sum(1)).ravel()


def _shared(marks: sparse.csr_matrix, sets: np.ndarray) -> np.ndarray:
    """How many marks each option of sets (clips, sets, K) has in common with the others of its set; of that shape."""
    rows = sets.ravel()
    count = sets.shape[-1]
    whole = sparse.csr_matrix(
        (np.ones(len(rows), dtype=np.float32), np.arange(len(rows)), np.arange(len(rows) // count + 1) * count)
    )
    options = marks[rows]
    of_set = whole @ options  # (sets, marks)
    alike = _dot(of_set[np.repeat(np.arange(len(rows) // count), count)], options) - _dot(options, options)
    return alike.reshape(sets.shape)


def _chunks(total: int, size: int = CHUNK) -> list[slice]:
    return [slice(start, start + size) for start in range(0, total, size)]
