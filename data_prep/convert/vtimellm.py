"""VTimeLLM's training conversations: InternVid-VTime (stage 2), ActivityNet Captions and DiDeMo (stage 3)."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from data_prep.convert.grounding import RowBuilder, numbers_of
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import iter_records
from data_prep.progress import progress

NAME = "vtimellm"
HELP = "VTimeLLM's training conversations, InternVid-VTime among them (JSON)"
PATTERN = "{video}.mp4"
SPAN = re.compile(r"<s(?P<start>\d+)>\s*(?:to|and|-)\s*<e(?P<end>\d+)>")
ASKED = re.compile(
    r"(?:<video>\s*)?(?:During which frames (?:can we see|does|do|is|are)?|When (?:does|do|can we see|is|are)?"
    r"|Can you (?:find|tell me)|Find|At what (?:time|point))\s*(?P<query>.+?)\s*[?.]?\s*$",
    re.IGNORECASE | re.DOTALL,
)
QUOTED = re.compile(r"['\"“‘](?P<query>.+)['\"”’]", re.DOTALL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments beyond those all grounding sets have: the file holds the durations."""


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows, one per turn that is answered with ``<sN> to <eN>``, with id ``DATASET-SPLIT-NUMBER-TURN``.

    ``meta.token`` gives the seconds of the marks, relative to ``meta.split``, which becomes the row's clip. Turns that
    are answered otherwise (captions, dialogues) are rejected: their queries cannot be told from the words around.
    """
    for number, where, record in progress(iter_records(builder.source), builder.dataset):
        turns, about = record.get("conversations"), record.get("meta")
        if "id" not in record or not isinstance(turns, list) or not isinstance(about, dict):
            raise DataError(f"{where}: expected the fields id, conversations and meta; is it VTimeLLM's training file?")
        for index in range(0, len(turns) - 1, 2):
            asked, answered = (str(turn.get("value", "")) for turn in turns[index : index + 2])
            entry = Entry(number, f"{where}, turn {index}", {"question": asked, "answer": answered})
            span, query = SPAN.search(answered), QUOTED.search(asked) or ASKED.match(asked.strip())
            if span is None or query is None or "<s" in asked:
                builder.ledger.reject(entry, "the turn does not ask for one moment", asked[:80])
                continue
            _add(builder, entry, f"{number}-{index // 2}", record, about, query["query"], span)


def _add(
    builder: RowBuilder, entry: Entry, key: str, record: dict[str, Any], about: Mapping[str, Any], query: str, span: Any
) -> None:
    marks = about.get("token")
    names = [f"<s{span['start']}>", f"<e{span['end']}>"]
    window = numbers_of([marks.get(name) for name in names]) if isinstance(marks, dict) else None
    if window is None:
        builder.ledger.reject(entry, "meta.token has no seconds for the answer's marks", " ".join(names))
        return
    duration, clip = about.get("duration"), None
    bounds = numbers_of(about.get("split"))
    if bounds is not None and len(bounds) == 2:
        clip, duration = (bounds[0], bounds[1]), bounds[1]
        window = [round(time + bounds[0], 6) for time in window]
        builder.ledger.note(entry, "length of the file unknown: the end of its clip stands for it")
    meta = {"source_dataset": record["source"]} if isinstance(record.get("source"), str) else {}
    builder.add(entry, key, str(record["id"]), duration, query, [window], meta, clip)
