"""Which option an answer means: its letter first, then its text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from invert_rl.llavaction.questions.mqa import LETTERS
from invert_rl.llavaction.segments import same_text

ANSWER_TAG = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL | re.IGNORECASE)
ALONE = re.compile(r"[\s(\[*\"'`]*([A-Z])[\s)\]*\"'`.:]*")
"""Nothing but a letter, with marks around it."""
FIRST = re.compile(r"[\s(\[*\"'`]*([A-Z])[)\]*\"'`]*[.:)]")
"""A letter at the beginning with a mark that makes it one: ``C. take plate``, ``(C) …``, ``C: …``."""
NAMED = re.compile(r"\b(?i:answer|option|choice)\b(?i:\s+is)?\s*:?[\s(\[*\"'`]*([B-Z]\b|A\b(?![ ]+[a-z]))")
"""``the answer is C``, ``option (C)``; an A before a word is an article."""
LATER = re.compile(r"(?:^|[\s(])([A-Z])[.)](?=\s|$)")
"""``… C. take plate`` anywhere; the last one counts, as in the released code [R]."""


@dataclass(frozen=True)
class Choice:
    """What an answer chose."""

    place: int | None
    """Place of the option, from 0; None where the answer cannot be read."""
    by: str | None
    """"letter" or "text", by which it was read; None where it cannot be."""


def parse_choice(answer: str, options: Sequence[str]) -> Choice:
    """The option that ``answer`` chooses among ``options`` (texts without letters).

    A letter counts before a text [C]: alone, at the beginning, after "answer", "option" or "choice", or else the last
    ``X.`` or ``X)`` in the answer. Without one, the answer's text must be that of an option, or hold the text of
    exactly one option that is not part of another one found. What stands in ``<answer>`` tags goes before the rest.
    """
    tagged = ANSWER_TAG.search(answer)
    if tagged is not None and tagged[1].strip():
        answer = tagged[1]
    place = _letter(answer, len(options))
    if place is not None:
        return Choice(place, "letter")
    place = _text(answer, options)
    return Choice(place, None if place is None else "text")


def _letter(answer: str, count: int) -> int | None:
    known = LETTERS[:count]
    alone = ALONE.fullmatch(answer)
    first = FIRST.match(answer)
    for match in (alone, first):
        if match is not None and match[1] in known:
            return known.index(match[1])
    for pattern in (NAMED, LATER):
        letters = [letter for letter in pattern.findall(answer) if letter in known]
        if letters:
            return known.index(letters[-1])
    return None


def _text(answer: str, options: Sequence[str]) -> int | None:
    text = same_text(answer.strip(" \t\n\"'`*"))
    texts = [same_text(option) for option in options]
    if text in texts:
        return texts.index(text)
    found = [
        place for place, option in enumerate(texts) if option and re.search(rf"(?<!\w){re.escape(option)}(?!\w)", text)
    ]
    whole = [a for a in found if not any(a != b and texts[a] in texts[b] for b in found)]
    return whole[0] if len(whole) == 1 else None
