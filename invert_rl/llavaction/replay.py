"""LLaVA-Video-178K, which the paper mixes in so that general abilities are kept (section 4.1)."""

from __future__ import annotations

import os
from typing import Any

from data_prep.errors import DataError
from data_prep.files import read_json
from data_prep.rows import MAX_SECONDS, Row, check_video_name

PLACEHOLDERS = ("<image>", "<video>")
"""Marks in the first question where the video goes; here it always goes first."""


def read_llava_video(path: str | os.PathLike[str]) -> list[Row]:
    """One row for the view ``qa`` for each question and answer of a file of the data set, about the whole video.

    The file is a JSON list of ``{"id", "video", "conversations": [{"from": "human", "value"}, {"from": "gpt", …}]}``.
    Lengths of videos are not in it: a row's window reaches past any end, and decoding stops at the real one. Raises
    `DataError` naming the entry that is something else.
    """
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise DataError(f"{path}: expected a list of conversations, as LLaVA-Video-178K's files are")
    return [row for number, entry in enumerate(content) for row in _rows(entry, f"{path}: entry {number}")]


def _rows(entry: Any, where: str) -> list[Row]:
    if not isinstance(entry, dict) or not isinstance(entry.get("video"), str):
        raise DataError(f"{where}: expected an object with 'video' and 'conversations'")
    check_video_name(entry["video"], where)
    turns = entry.get("conversations")
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise DataError(f"{where}: 'conversations' must alternate between human and gpt")
    rows = []
    for number in range(0, len(turns), 2):
        question, answer = (
            _text(turn, who, where) for turn, who in zip(turns[number:], ("human", "gpt"), strict=False)
        )
        rows.append(
            Row(
                id=f"{entry.get('id', where)}#{number // 2}",
                video=entry["video"],
                duration=MAX_SECONDS,
                query="-",
                windows=((0.0, MAX_SECONDS),),
                dataset="llava-video-178k",
                meta={"question": question, "answer": answer},
            )
        )
    return rows


def _text(turn: Any, who: str, where: str) -> str:
    value = turn.get("value") if isinstance(turn, dict) and turn.get("from") == who else None
    if not isinstance(value, str):
        raise DataError(f"{where}: expected a turn of {who!r}, found {turn!r}")
    for mark in PLACEHOLDERS:
        value = value.replace(mark, "")
    if not value.strip():
        raise DataError(f"{where}: a turn of {who!r} is empty")
    return value.strip()
