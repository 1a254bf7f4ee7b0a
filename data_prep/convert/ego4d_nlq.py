"""Ego4D-NLQ: the challenge's JSON, TimeLens2's flat lines, and its conversations of the training set."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.convert.conversations import questions_of
from data_prep.convert.grounding import RowBuilder, numbers_of
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import iter_records, read_json, read_text
from data_prep.progress import progress

NAME = "ego4d-nlq"
HELP = "Ego4D-NLQ v1 and v2 (JSON), also TimeLens2's flat lines and conversations (JSONL)"
PATTERN = "{video}.mp4"
PREFIX = re.compile(r"^\s*query text\s*:\s*", re.IGNORECASE)
QUOTED = re.compile(r'"(?P<query>.+)"', re.DOTALL)
ANSWER = re.compile(r"\[\[\s*([\d.]+)\s*,\s*([\d.]+)\s*\]\]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beyond those all grounding sets have."""
    parser.add_argument(
        "--shown",
        choices=("clips", "videos"),
        default="clips",
        help="files of clips, as the challenge has it, or of whole videos with the clip marked (default: %(default)s)",
    )


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows, one per query, with id ``ego4d-nlq-SPLIT-CLIP-ANNOTATION-INDEX`` (of other forms: by place).

    With ``shown`` "clips" times count from the start of the clip and the video is ``CLIP_UID``; with "videos" they
    count from the start of ``VIDEO_UID``, of which the clip is the row's ``clip``. Rows without a query are rejected,
    those without times (the test set) too unless ``--unlabelled``; a "query text:" before a query is dropped.
    """
    text = read_text(args.annotations)
    if text.lstrip().startswith("{") and '"videos"' in text[: 1 << 20]:
        for number, where, video, clip, annotation, index, query in progress(_queries(args.annotations), NAME):
            key = f"{clip.get('clip_uid')}-{annotation.get('annotation_uid')}-{index}"
            _add(builder, Entry(number, where, query), key, video, clip, query, args.shown)
    elif args.shown == "videos":
        raise DataError(f"{args.annotations}: --shown videos is for the challenge's JSON; this form has clips alone")
    else:
        for number, where, record in progress(iter_records(args.annotations), NAME):
            if "messages" in record:
                _add_conversation(builder, number, where, record)
            else:
                _add_flat(builder, number, where, record)


def _queries(annotations: Path) -> Iterator[tuple[int, str, dict[str, Any], dict[str, Any], dict[str, Any], int, Any]]:
    content = read_json(annotations)
    number = 0
    for video in _list(content, "videos", str(annotations)):
        where = f"{annotations}: video {video.get('video_uid')!r}"
        for clip in _list(video, "clips", where):
            for annotation in _list(clip, "annotations", f"{where}, clip {clip.get('clip_uid')!r}"):
                place = f"{where}, clip {clip.get('clip_uid')!r}, annotation {annotation.get('annotation_uid')!r}"
                for index, query in enumerate(_list(annotation, "language_queries", place)):
                    number += 1
                    yield number, f"{place}, query {index}", video, clip, annotation, index, query


def _add(
    builder: RowBuilder,
    entry: Entry,
    key: str,
    video: dict[str, Any],
    clip: dict[str, Any],
    query: dict[str, Any],
    shown: str,
) -> None:
    bounds = numbers_of([clip.get("video_start_sec"), clip.get("video_end_sec")])
    if bounds is None:
        builder.ledger.reject(entry, "the clip has no bounds in its video", repr(clip.get("clip_uid")))
        return
    prefix = "clip" if shown == "clips" else "video"
    times = [query.get(f"{prefix}_start_sec"), query.get(f"{prefix}_end_sec")]
    windows = [] if times == [None, None] else [times]
    meta = {"template": query["template"]} if isinstance(query.get("template"), str) else {}
    if shown == "clips":
        name, duration, part = str(clip.get("clip_uid")), round(bounds[1] - bounds[0], 6), None
    else:
        name, duration, part = str(video.get("video_uid")), bounds[1], (bounds[0], bounds[1])
        builder.ledger.note(entry, "length of the file unknown: the end of its clip stands for it")
    builder.add(entry, key, name, duration, _cleaned(query.get("query")), windows, meta, part)


def _add_flat(builder: RowBuilder, number: int, where: str, record: dict[str, Any]) -> None:
    if not {"video_id", "query", "duration", "timestamps"} <= record.keys():
        raise DataError(f"{where}: expected the challenge's JSON, or lines of video_id, query, duration and timestamps")
    meta: dict[str, Any] = {name: record[name] for name in ("query_id", "query_type") if name in record}
    video = str(record["video_id"])
    query, windows = _cleaned(record["query"]), record["timestamps"]
    builder.add(Entry(number, where, record), str(number), video, record["duration"], query, windows, meta)


def _add_conversation(builder: RowBuilder, number: int, where: str, record: dict[str, Any]) -> None:
    """The questions of one clip: each a user's turn with the query in quotes, and the answer to it."""
    about, questions = questions_of(record, where)
    frames = numbers_of([about.get("origin_video_length"), about.get("origin_fps")])
    video, duration = Path(str(about.get("url", ""))).stem, frames[0] / frames[1] if frames and frames[1] else None
    for index, asked, answered in questions:
        entry = Entry(number, f"{where}, question {index}", {"question": asked, "answer": answered})
        found, times = QUOTED.search(asked), ANSWER.fullmatch(answered.strip())
        if found is None or times is None:
            builder.ledger.reject(entry, "no quoted query, or no [[start, end]] for an answer", answered[:80])
            continue
        window = [float(times[1]), float(times[2])]
        builder.add(entry, f"{number}-{index}", video, duration, _cleaned(found["query"]), [window])


def _cleaned(query: Any) -> Any:
    return PREFIX.sub("", query) if isinstance(query, str) else query


def _list(record: Any, name: str, where: str) -> list[dict[str, Any]]:
    listed = record.get(name) if isinstance(record, dict) else None
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise DataError(f"{where}: expected a list of objects under {name!r}; is it Ego4D-NLQ?")
    return listed
