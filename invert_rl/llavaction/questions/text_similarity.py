"""How much alike two short texts look: their words and the pieces of these."""

from __future__ import annotations

import re
from collections import Counter

WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """The words of a text, without case and marks."""
    return WORD.findall(text.casefold())


def pieces(text: str) -> list[str]:
    """The words of a text and the three-letter pieces of each, with its ends marked."""
    found = words(text)
    return found + [f"#{word}#"[at : at + 3] for word in found for at in range(len(word))]


def cosine(a: Counter[str], b: Counter[str]) -> float:
    """Cosine of two counts; 0 where one is empty."""
    dot = sum(number * b[name] for name, number in a.items())
    norm = sum(number * number for number in a.values()) * sum(number * number for number in b.values())
    return dot / norm**0.5 if norm else 0.0
