"""Verbs and masked queries ahead of time, by the reward library's own pipeline."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from data_prep.progress import progress
from data_prep.rows import Row
from rewards.pipelines import VerbPipeline

logger = logging.getLogger(__name__)

BATCH = 512
"""Queries per call of the pipeline."""


def annotate_verbs(rows: Sequence[Row], pipeline: VerbPipeline) -> list[Row]:
    """The rows with ``verbs``, ``masked_query`` and ``verb_pipeline`` (name and version) in ``meta``.

    ``verbs`` are the lemmas of the query's verbs, an empty list where it has none; ``masked_query`` is the
    query of VC (paper, section 2.2). `rewards.pipelines.load_pipeline` gives the pipeline. Rows that the same
    pipeline has annotated already are kept as they are.
    """
    return _replaced(rows, pipeline, [row for row in rows if row.meta.get("verb_pipeline") != identity_of(pipeline)])


def annotate_missing(rows: Sequence[Row], pipeline: VerbPipeline) -> list[Row]:
    """`annotate_verbs` for the rows that lack ``verbs`` or ``masked_query``, or have those of another pipeline.

    Rewards are given by ``pipeline``, so a row that names another one (or another version) is annotated anew, which
    the log says. Verbs without ``verb_pipeline`` are somebody's own and stay.
    """
    identity = identity_of(pipeline)
    stale = [row for row in rows if row.meta.get("verb_pipeline", identity) != identity]
    for other, count in Counter(row.meta["verb_pipeline"] for row in stale).items():
        logger.warning(
            "%d rows carry the verbs of pipeline %s; they are annotated anew by %s, which gives the rewards",
            count,
            other,
            identity,
        )
    missing = [row for row in rows if not {"verbs", "masked_query"} <= row.meta.keys()]
    return _replaced(rows, pipeline, stale + missing)


def identity_of(pipeline: VerbPipeline) -> str:
    """Name and version, as a row's ``verb_pipeline`` has them."""
    return f"{pipeline.name} {pipeline.version}"


def _replaced(rows: Sequence[Row], pipeline: VerbPipeline, chosen: Sequence[Row]) -> list[Row]:
    """``rows`` with the ``chosen`` ones annotated by ``pipeline``."""
    queries = list(dict.fromkeys(row.query for row in chosen))
    answers: dict[str, tuple[str, list[str]]] = {}
    batches = [queries[first : first + BATCH] for first in range(0, len(queries), BATCH)]
    for batch in progress(batches, "verbs"):
        answers.update(zip(batch, pipeline.mask(batch), strict=True))
    annotated: dict[str, Row] = {}
    for row in chosen:
        masked, verbs = answers[row.query]
        fields = {"verbs": list(verbs), "masked_query": masked, "verb_pipeline": identity_of(pipeline)}
        annotated[row.id] = replace(row, meta={**row.meta, **fields})
    return [annotated.get(row.id, row) for row in rows]


def without_verb(rows: Sequence[Row]) -> list[Row]:
    """Annotated rows whose query has no verb: the inverted tasks cannot use them."""
    return [row for row in rows if not row.meta["verbs"]]
