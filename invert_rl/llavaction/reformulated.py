"""Captions and questions that another model wrote about clips: requests to make them, and a reader (appendix B)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_prep.errors import DataError
from data_prep.files import read_jsonl
from data_prep.rows import Row, parse_row
from invert_rl.llavaction.prompts import caption_request, question_request

FRAMES = 4
"""Frames of a clip that the paper shows to the other model."""


@dataclass(frozen=True)
class Reformulated:
    """Rows for the views ``caption`` and ``qa``."""

    captions: list[Row]
    questions: list[Row]
    left_out: dict[str, int]
    """How many entries were left out, by reason."""


def caption_requests(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One request per clip for a caption: ``id``, ``video``, ``start`` and ``end`` (seconds), ``frames``, ``prompt``.

    Show the other model that many frames of the clip and ask for an object with ``caption`` and
    ``disagree_with_human_annotation``; nothing is sent from here.
    """
    requests = []
    for row in rows:
        start, end = row.window
        prompt = caption_request(row.query, start, end)
        requests.append(
            {"id": row.id, "video": row.video, "start": start, "end": end, "frames": FRAMES, "prompt": prompt}
        )
    return requests


def question_requests(captions: Iterable[Row]) -> list[dict[str, str]]:
    """One request per caption for three questions with answers: ``id`` and ``prompt``."""
    return [{"id": row.id, "prompt": question_request(row.meta["caption"])} for row in captions]


def read_reformulated(path: str | os.PathLike[str], rows: Sequence[Row], keep_disagreeing: bool = True) -> Reformulated:
    """Captions and questions of a JSONL file, joined to the rows of the same ids, or about clips of their own.

    A line is ``{"id", "caption"?, "disagree_with_human_annotation"?, "qa"?: [{"question", "answer"}, …]}``; a clip may
    have several lines. With ``video``, ``duration`` and ``windows`` (seconds, one window) it is about a clip of its
    own: so other data join the mixture, such as LLaVA-Video-178K (section 4.1). Captions that disagree with the
    annotation are kept unless ``keep_disagreeing`` is false.
    Raises `DataError` naming the line for an id that no row has or a field that is not a text.
    """
    by_id = {row.id: row for row in rows}
    captions: list[Row] = []
    questions: list[Row] = []
    left_out: Counter[str] = Counter()
    for line, record in read_jsonl(path):
        where = f"{path}:{line}"
        if "video" in record:
            row = parse_row({"query": "-", **record, "meta": {}}, where)
            row.window  # noqa: B018 - raises for several windows
        elif str(record.get("id")) in by_id:
            row = by_id[str(record["id"])]
        else:
            raise DataError(
                f"{where}: id {record.get('id')!r} is none of the {len(by_id)} rows; give the rows it is of"
            )
        if record.get("disagree_with_human_annotation") in (True, "true") and not keep_disagreeing:
            left_out["disagrees with the annotation"] += 1
            continue
        if "caption" in record:
            meta = {"caption": _text(record, "caption", where)}
            captions.append(replace(row, id=f"{row.id}/caption{len(captions)}", meta=meta))
        pairs = record.get("qa", [])
        if not isinstance(pairs, list):
            raise DataError(f"{where}: 'qa' must be a list of objects with question and answer")
        for pair in pairs:
            if not isinstance(pair, dict):
                raise DataError(f"{where}: 'qa' must be a list of objects with question and answer")
            meta = {"question": _text(pair, "question", where), "answer": _text(pair, "answer", where)}
            questions.append(replace(row, id=f"{row.id}/qa{len(questions)}", meta=meta))
    return Reformulated(captions, questions, dict(left_out))


def _text(record: dict[str, Any], name: str, where: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name!r} must be a non-empty text, found {value!r}")
    return value
