"""The format reward: one think block, then one answer block, and nothing else (paper, eq. 9)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rewards.answers import TAG, Completion, completion_text

LAYOUT = ("<think>", "</think>", "<answer>", "</answer>")
_SPAN = re.compile(r"\s*[0-9]{1,7}(?:\.[0-9]{1,12})?\s+to\s+[0-9]{1,7}(?:\.[0-9]{1,12})?\s*", re.ASCII)


def has_format(text: str, task: str) -> bool:
    """Whether ``text`` is exactly ``<think>…</think> <answer>…</answer>``.

    White space may stand before, between and after the blocks, nothing else may; both blocks hold text; the
    tags are lower case and each occurs once. For ``task`` "tvg" the answer must be ``a to b``, two decimal
    numbers of seconds without unit or sign. Time is linear in the length of the text.
    """
    tags = list(TAG.finditer(text))
    if tuple(tag.group() for tag in tags) != LAYOUT:
        return False
    think_open, think_close, answer_open, answer_close = tags
    outside = text[: think_open.start()] + text[think_close.end() : answer_open.start()] + text[answer_close.end() :]
    thought = text[think_open.end() : think_close.start()]
    answer = text[answer_open.end() : answer_close.start()]
    if outside.strip() or not thought.strip() or not answer.strip():
        return False
    return task != "tvg" or _SPAN.fullmatch(answer) is not None


def format_reward(completions: Sequence[Completion], task: Sequence[str], **columns: Any) -> list[float]:
    """1.0 for each completion with the exact format, else 0.0 (paper, eq. 9); never None."""
    return [
        float(has_format(completion_text(completion), name)) for completion, name in zip(completions, task, strict=True)
    ]
