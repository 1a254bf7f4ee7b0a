"""Verbs and masked queries ahead of time, by the reward library's own pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from data_prep.progress import progress
from data_prep.rows import Row
from rewards.pipelines import VerbPipeline

BATCH = 512
"""Queries per call of the pipeline."""


def annotate_verbs(rows: Sequence[Row], pipeline: VerbPipeline) -> list[Row]:
    """The rows with ``verbs``, ``masked_query`` and ``verb_pipeline`` (name and version) in ``meta``.

    ``verbs`` are the lemmas of the query's verbs, an empty list where it has none; ``masked_query`` is the
    query of VC (paper, section 2.2). `rewards.pipelines.load_pipeline` gives the pipeline. Rows that the same
    pipeline has annotated already are kept as they are.
    """
    identity = f"{pipeline.name} {pipeline.version}"
    queries = list(dict.fromkeys(row.query for row in rows if row.meta.get("verb_pipeline") != identity))
    answers: dict[str, tuple[str, list[str]]] = {}
    batches = [queries[first : first + BATCH] for first in range(0, len(queries), BATCH)]
    for batch in progress(batches, "verbs"):
        answers.update(zip(batch, pipeline.mask(batch), strict=True))
    annotated = []
    for row in rows:
        if row.meta.get("verb_pipeline") != identity:
            masked, verbs = answers[row.query]
            fields = {"verbs": list(verbs), "masked_query": masked, "verb_pipeline": identity}
            row = replace(row, meta={**row.meta, **fields})
        annotated.append(row)
    return annotated


def annotate_missing(rows: Sequence[Row], pipeline: VerbPipeline) -> list[Row]:
    """`annotate_verbs` for the rows that carry no ``verbs`` and ``masked_query`` yet; the others stay as they are."""
    missing = [row for row in rows if "verbs" not in row.meta or "masked_query" not in row.meta]
    annotated = {row.id: row for row in annotate_verbs(missing, pipeline)}
    return [annotated.get(row.id, row) for row in rows]


def without_verb(rows: Sequence[Row]) -> list[Row]:
    """Annotated rows whose query has no verb: the inverted tasks cannot use them."""
    return [row for row in rows if not row.meta["verbs"]]
