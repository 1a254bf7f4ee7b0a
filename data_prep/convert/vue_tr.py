"""VUE-TR and VUE-TR-V2 (Vidi): queries with one or more windows in long YouTube videos."""

from __future__ import annotations

import argparse

from data_prep.convert.grounding import RowBuilder
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import iter_records
from data_prep.progress import progress

NAME = "vue-tr"
HELP = "VUE-TR and VUE-TR-V2 (JSON)"
PATTERN = "{video}.mp4"
KEPT = ("query_id", "duration_category", "query_format", "query_modality")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments beyond those all grounding sets have: the file holds the durations."""


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows, one per query with all its windows, with id ``vue-tr-SPLIT-QUERY_ID``.

    ``query_modality`` goes to ``meta``: 288 of the 1,598 queries (V2: 287 of 1,600) cannot be answered without sound.
    """
    for number, where, record in progress(iter_records(args.annotations), NAME):
        if not {"query_id", "video_id", "duration", "query", "gt"} <= record.keys():
            raise DataError(f"{where}: expected the fields query_id, video_id, duration, query and gt; is it VUE-TR?")
        meta = {name: record[name] for name in KEPT if name in record}
        key, video = str(record["query_id"]), str(record["video_id"])
        if record.get("query_modality") == "audio":
            builder.ledger.note(Entry(number, where, record), "query about the sound alone")
        builder.add(Entry(number, where, record), key, video, record["duration"], record["query"], record["gt"], meta)
