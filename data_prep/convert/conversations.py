"""Questions and answers of TimeLens2's training conversations (XTuner's ``messages``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_prep.errors import DataError

CONTEXT = "<VIDEO_CONTEXT>"
"""Where the frames stand in the first question."""


def questions_of(record: dict[str, Any], where: str) -> tuple[dict[str, Any], Iterator[tuple[int, str, str]]]:
    """What a conversation says of its video (``url``, frame counts), and each question's place, text and answer.

    Raises `DataError` where user and assistant do not take turns about one video.
    """
    turns = record["messages"]
    roles = [turn.get("role") if isinstance(turn, dict) else None for turn in turns] if isinstance(turns, list) else []
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise DataError(f"{where}: 'messages' must be turns of user and assistant")
    first = turns[0]["content"]
    parts = {part.get("type"): part for part in first if isinstance(part, dict)} if isinstance(first, list) else {}
    about = parts.get("video_url", {}).get("video_url")
    if not isinstance(about, dict) or "text" not in parts:
        raise DataError(f"{where}: the first question must hold a video_url and a text")
    texts = [str(parts["text"].get("text", "")).removeprefix(CONTEXT).strip()]
    texts += [str(turn.get("content", "")) for turn in turns[1:]]
    return about, ((place // 2, texts[place], texts[place + 1]) for place in range(0, len(texts), 2))
