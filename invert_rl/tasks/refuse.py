"""Refusal: say that nothing matches where a query is not in the video, else ground it. Ours; made by inversion.

The queries that are not there come from the annotations themselves, without a judge: a sentence of another video of
the same data set whose verbs none of the video's own annotations names, or whose objects none of them names.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from data_prep.errors import DataError
from data_prep.rows import Row, Window, is_irrelevant
from invert_rl.tasks.base import SPAN, SPANS
from invert_rl.tasks.tvg import TVG, Grounding
from rewards.answers import answer_or_bare_text, says_nothing_matches

if TYPE_CHECKING:
    from invert_rl.evaluation.predictions import Prediction

NOTHING = "not in the video"
"""The answer that nothing matches, where no list is asked for."""
TRIES = 200
"""Sentences looked at for one that is not in a video, before the row goes without."""
_WORD = re.compile(r"[^\W\d_]+")
_ANYBODY = {"person", "people", "man", "woman", "guy", "girl", "boy"}
"""Who acts says little about what is in a video."""


@functools.cache
def _function_words() -> set[str]:
    from spacy.lang.en.stop_words import STOP_WORDS

    return STOP_WORDS | _ANYBODY


@dataclass(frozen=True)
class Refusal(Grounding):
    """REFUSE; irrelevant rows have no windows, and ids that end in ``!``."""

    irrelevant_share: float = 0.5
    """Share of the rows whose query is not in the video."""
    nothing: str = NOTHING

    @property
    def answer_format(self) -> str:
        return super().answer_format if self.kind == SPANS else f"{super().answer_format}|none"

    def usable(self, row: Row) -> bool:
        return bool(row.windows) or is_irrelevant(row)

    def rows(self, rows: Iterable[Row]) -> list[Row]:
        """The rows, and queries that are not in their videos; fewer of either as ``irrelevant_share`` asks for.

        The latter are the rows without windows that say so (``meta.irrelevant``), else they are made of the others'.
        A named protocol counts all rows of the data and makes none.
        """
        if self.rules is not None:
            return super().rows(rows)
        if not 0 < self.irrelevant_share < 1:
            raise DataError(f"irrelevant_share must be in (0, 1), found {self.irrelevant_share}")
        asked = super().rows(rows)
        true = [row for row in asked if row.windows]
        false = [row for row in asked if not row.windows] or irrelevant_rows(true)
        share = self.irrelevant_share
        kept_true = _first(true, round(len(false) * (1 - share) / share))
        return kept_true + _first(false, round(len(kept_true) * share / (1 - share)))

    def answer(self, row: Row) -> str:
        if row.windows:
            return super().answer(row)
        return "[]" if self.kind == SPANS else self.nothing

    def read(self, text: str, row: Row) -> list[Window] | None:
        return [] if says_nothing_matches(answer_or_bare_text(text)) else super().read(text, row)

    def metrics(
        self, predictions: Sequence[Prediction | None], rows: Sequence[Row], strict: bool = False
    ) -> dict[str, float]:
        """In percent: ``rejection`` of irrelevant queries, ``false_rejection`` of true ones, and their ``mIoU``.

        A query without a readable answer is not rejected. Of a named protocol the metrics of `rules` come on top.
        """
        published = {} if self.rules is None else self.rules.metrics(predictions, rows)
        refused = [p is not None and p.status == "ok" and not p.windows for p in predictions]
        irrelevant = [value for value, row in zip(refused, rows, strict=True) if not row.windows]
        true = [value for value, row in zip(refused, rows, strict=True) if row.windows]
        shown = [(p, row) for p, row in zip(predictions, rows, strict=True) if row.windows]
        ious = super().values([p for p, _ in shown], [row for _, row in shown])
        return {
            **published,
            f"{self.label}_rejection": 100 * sum(irrelevant) / max(1, len(irrelevant)),
            f"{self.label}_false_rejection": 100 * sum(true) / max(1, len(true)),
            f"{self.label}_mIoU": 100 * sum(ious) / max(1, len(ious)),
        }

    def values(self, predictions: Sequence[Prediction | None], rows: Sequence[Row]) -> list[float]:
        values = []
        for prediction, row in zip(predictions, rows, strict=True):
            if row.windows:
                values += super().values([prediction], [row])
            else:
                values.append(float(prediction is not None and prediction.status == "ok" and not prediction.windows))
        return values


def irrelevant_rows(rows: Sequence[Row]) -> list[Row]:
    """For each row one with a query that its video does not show, as far as the annotations tell; without windows.

    The query is a sentence of another video. In turn its objects are among the video's while no verb of it is, or its
    verbs are among them while no object is; where there is none of the kind, neither is. A row for which there is no
    such sentence gets none. ``meta`` says where the query is from and which kind it is. Rows need ``verbs`` in
    ``meta``; the choice depends on the row's id and on ``rows``, not on their order.
    """
    verbs: dict[str, set[str]] = defaultdict(set)
    objects: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        verbs[row.video] |= set(row.meta.get("verbs", ()))
        objects[row.video] |= object_words(row)
    donors = sorted({row.query: row for row in rows if row.meta.get("verbs")}.values(), key=lambda row: row.id)
    by_object: dict[str, list[int]] = defaultdict(list)
    by_verb: dict[str, list[int]] = defaultdict(list)
    for place, donor in enumerate(donors):
        for word in object_words(donor):
            by_object[word].append(place)
        for verb in donor.meta["verbs"]:
            by_verb[verb].append(place)
    made = []
    for row in rows:
        rng = np.random.default_rng(zlib.crc32(row.id.encode()))
        kinds = ("verb", "object") if rng.random() < 0.5 else ("object", "verb")
        for kind in (*kinds, "both"):
            if kind == "verb":
                pool = sorted({place for word in object_words(row) for place in by_object[word]})
            elif kind == "object":
                pool = sorted({place for verb in row.meta.get("verbs", ()) for place in by_verb[verb]})
            else:
                pool = list(range(len(donors)))
            found = _absent(row, kind, [donors[place] for place in pool], rng, verbs[row.video], objects[row.video])
            if found is not None:
                meta = {**found.meta, "irrelevant": kind, "query_of": found.id}
                made.append(replace(row, id=f"{row.id}!", query=found.query, windows=(), meta=meta))
                break
    return made


def object_words(row: Row) -> set[str]:
    """The words of a query that are neither verbs nor function words, lower case."""
    text = row.meta.get("masked_query") or row.query
    return {word for word in _WORD.findall(text.lower()) if word not in _function_words()}


def _absent(
    row: Row, kind: str, pool: Sequence[Row], rng: np.random.Generator, verbs: set[str], objects: set[str]
) -> Row | None:
    """A sentence of ``pool`` that the video's annotations do not name in the way of ``kind``."""
    for place in rng.permutation(len(pool))[:TRIES]:
        donor = pool[int(place)]
        if donor.video == row.video:
            continue
        new_verbs = not set(donor.meta["verbs"]) & verbs
        words = object_words(donor)
        new_objects = bool(words) and not words & objects
        if (kind == "verb" and new_verbs) or (kind == "object" and new_objects) or (new_verbs and new_objects):
            return donor
    return None


def _first(rows: Sequence[Row], count: int) -> list[Row]:
    """At most ``count`` of the rows, chosen by their ids, in their order."""
    if count >= len(rows):
        return list(rows)
    chosen = {row.id for row in sorted(rows, key=lambda row: (zlib.crc32(row.id.encode()[::-1]), row.id))[:count]}
    return [row for row in rows if row.id in chosen]


REFUSE = Refusal(
    name="refuse",
    question=f'{TVG.question} If the video does not show the event, say "{NOTHING}".',
    wanted=f'{TVG.wanted}, or "{NOTHING}",',
    example=TVG.example,
    needs_verbs=True,
    kind=SPAN,
    rewards={"iou": 1.0},
)
