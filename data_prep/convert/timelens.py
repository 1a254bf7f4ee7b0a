"""TimeLens-100K and TimeLens2-93K: JSON lines of videos with their events, of queries (flat) or of conversations."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from data_prep.convert.conversations import questions_of
from data_prep.convert.grounding import RowBuilder, numbers_of
from data_prep.convert.ledger import Entry
from data_prep.errors import DataError
from data_prep.files import iter_records
from data_prep.progress import progress

NAME = "timelens"
HELP = "TimeLens-100K and TimeLens2-93K: grouped, flat, or TimeLens2's conversations (JSONL)"
PATTERN = "{video}"
TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)")
"""Seconds, mm:ss or hh:mm:ss."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments beyond those all grounding sets have: the file holds the durations."""


def convert(args: argparse.Namespace, builder: RowBuilder) -> None:
    """Rows, one per query with all its windows, with id ``timelens-SPLIT-LINE-INDEX``.

    A ``span`` is a list of windows or one window; ``video_start`` and ``video_end``, of an event or its line, become
    the row's clip, to which the windows are relative. A video that is a folder of frames (no ending) is rejected. Of
    conversations, whose videos are folders of frames made of files, the file is taken; an answer is read as all its
    times in pairs, whatever words stand around them.
    """
    for number, where, record in progress(iter_records(args.annotations), NAME):
        if "messages" in record:
            _add_conversation(builder, number, where, record)
            continue
        events = record.get("events", [record])
        if not {"video_path", "duration"} <= record.keys() or not isinstance(events, list):
            raise DataError(f"{where}: expected the fields video_path, duration and events, or query and span")
        for index, event in enumerate(events):
            if not isinstance(event, dict) or not {"query", "span"} <= event.keys():
                raise DataError(f"{where}: event {index} has no query and span")
            _add(builder, Entry(number, f"{where}, event {index}", event), f"{number}-{index}", record, event)


def _add_conversation(builder: RowBuilder, number: int, where: str, record: dict[str, Any]) -> None:
    about, questions = questions_of(record, where)
    frames = numbers_of([about.get("processed_video_length"), about.get("processed_fps")])
    video, duration = str(about.get("url", "")).rstrip("/"), frames[0] / frames[1] if frames and frames[1] else None
    for index, asked, answered in questions:
        entry = Entry(number, f"{where}, question {index}", {"question": asked, "answer": answered})
        query, line_end, form = asked.partition("\n")
        times = [_seconds(*found) for found in TIME.findall(answered)]
        if not line_end or not times or len(times) % 2 or re.search(r"\d", TIME.sub("", answered)):
            builder.ledger.reject(entry, "not a query, a form and an answer of times in pairs", answered[:80])
            continue
        builder.ledger.note(entry, "a folder of frames in the conversation: the file of its name stands for it")
        windows = [times[place : place + 2] for place in range(0, len(times), 2)]
        builder.add(entry, f"{number}-{index}", f"{video}.mp4", duration, query, windows, {"form": form})


def _seconds(hours: str, minutes: str, seconds: str) -> float:
    return 3600 * float(hours or 0) + 60 * float(minutes or 0) + float(seconds)


def _add(builder: RowBuilder, entry: Entry, key: str, record: dict[str, Any], event: dict[str, Any]) -> None:
    video, duration, span = str(record["video_path"]), record["duration"], event["span"]
    if not Path(video).suffix:
        builder.ledger.reject(entry, "the video is a folder of frames, not a file", video)
        return
    windows: Any = [span] if numbers_of(span) else span
    bounds = numbers_of([event.get(name, record.get(name)) for name in ("video_start", "video_end")])
    clip = None
    if bounds is not None:
        if isinstance(windows, list) and all(numbers_of(window) for window in windows):
            windows = [[round(time + bounds[0], 6) for time in window] for window in windows]
        clip, duration = (bounds[0], bounds[1]), bounds[1]
        builder.ledger.note(entry, "length of the file unknown: the end of its clip stands for it")
    meta = {"source_dataset": record["source"]} if isinstance(record.get("source"), str) else {}
    builder.add(entry, key, video, duration, event["query"], windows, meta, clip)
