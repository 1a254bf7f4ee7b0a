"""RA-RFT's refusal data: for each moment queries that the video shows and queries to be refused."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from data_prep.convert.durations import read_durations
from data_prep.convert.grounding import RowBuilder
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import iter_records
from data_prep.progress import progress

NAME = "ra-rft"
HELP = "RA-RFT's HI-VTG, SS-VTG and human sets, queries to be refused included (JSON)"
PATTERN = "{video}.mp4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beyond those all grounding sets have."""
    parser.add_argument(
        "--durations", type=Path, help="seconds by video, where the file has none: JSON, or csv with id and length"
    )


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows, one per query of ``GRPO``, with id ``ra-rft-SPLIT-NUMBER-INDEX``.

    A query with ``r: false`` has no windows; ``meta.irrelevant`` says what was changed (``c``), ``meta.difficulty`` how
    near it is to the truth. A relevant query other than the row's own has no window in the file and is rejected.
    """
    length = read_durations(args.durations) if args.durations is not None else {}
    for number, where, record in progress(iter_records(args.annotations), NAME):
        queries = record.get("GRPO")
        if not {"video", "timestamp"} <= record.keys() or not isinstance(queries, list):
            raise DataError(f"{where}: expected the fields video, timestamp and GRPO; is it RA-RFT?")
        video = Path(str(record["video"])).stem
        own = next((query.get("q") for query in queries if isinstance(query, dict) and query.get("r") is True), None)
        for index, query in enumerate(queries):
            entry = Entry(number, f"{where}, query {index}", query)
            if not isinstance(query, dict) or not isinstance(query.get("r"), bool):
                builder.ledger.reject(entry, "the query does not say whether it is relevant", repr(query)[:80])
                continue
            meta: dict[str, Any] = {name: query[name] for name in ("difficulty",) if query.get(name)}
            windows: list[Any] = []
            if not query["r"]:
                changed = query.get("c")
                meta["irrelevant"] = ", ".join(map(str, changed)) if isinstance(changed, list) and changed else "unsaid"
            elif query.get("q") != own or not record["timestamp"]:
                builder.ledger.reject(entry, "the file has no window for this relevant query", str(query.get("q")))
                continue
            else:
                windows = [record["timestamp"]]
            duration = record.get("duration", length.get(video))
            builder.add(entry, f"{number}-{index}", video, duration, query.get("q"), windows, meta)
