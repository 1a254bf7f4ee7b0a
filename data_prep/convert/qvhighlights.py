"""QVHighlights: JSONL of queries with one or more ``relevant_windows`` in a clip of up to 150 s."""

from __future__ import annotations

import argparse

from data_prep.convert.grounding import RowBuilder
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import iter_jsonl
from data_prep.progress import progress

NAME = "qvhighlights"
HELP = "QVHighlights (JSONL)"
PATTERN = "{video}.mp4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments beyond those all grounding sets have: the file holds the durations."""


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows of QVHighlights, see `read`."""
    read(builder)


def read(builder: RowBuilder, kept: tuple[str, ...] = ()) -> None:
    """Rows of QVHighlights, or of the builder's data set in its layout, one per query with all its windows.

    Ids are ``DATASET-SPLIT-QID``; the fields ``kept`` go to ``meta``.

    A query without the field ``relevant_windows`` (the test set without ground truth) is rejected. Clip ids
    and saliency scores are not carried over. Raises `DataError` for a malformed line or a repeated qid.
    """
    for number, record in progress(iter_jsonl(builder.source), builder.dataset):
        where = f"{builder.source}:{number}"
        for field in ("qid", "query", "duration", "vid"):
            if field not in record:
                raise DataError(f"{where}: field {field!r} is missing; is it a QVHighlights file?")
        if not isinstance(record["vid"], str):
            raise DataError(f"{where}: field 'vid' must be text, found {record['vid']!r}")
        entry = Entry(number, where, record)
        if record.get("relevant_windows") is None and not builder.ledger.unlabelled:
            builder.ledger.reject(entry, "no ground truth: the query has no relevant_windows", str(record["qid"]))
            continue
        builder.add(
            entry,
            str(record["qid"]),
            record["vid"],
            record["duration"],
            record["query"],
            [] if record.get("relevant_windows") is None else record["relevant_windows"],
            {name: record[name] for name in ("qid", *kept) if name in record},
        )
