"""The words of a completion as a tagger should see them: without markup, symbols and endless runs.

spaCy's tokenizer takes quadratic time in the length of a run of punctuation or emoji, and a collapsed policy writes
thousands of one character. Everything here is linear.
"""

from __future__ import annotations

import functools
import re
import unicodedata

LONGEST_WORD = 30
"""Letters of the longest word that is read; what is longer is no English word, and is cut."""

_MARKUP = re.compile(r"<[^<>]{1,40}>|\\(?:boxed|text|textbf)\b|[<>\[\]{}()\"“”*`_=|\\#~^]")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PUNCTUATION_RUN = re.compile(r"([^\w\s])(?: ?[^\w\s]){3,}")
_LONG_CHUNK = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")
_PIECE = re.compile(r"\w+|\W")
_TYPOGRAPHY = frozenset("’‘–—…")


def plain_text(text: str) -> str:
    """``text`` in words with single spaces.

    Markup (tags, brackets, quotes, JSON), emoji and other symbols are read as white space, invisible characters as
    nothing, and CamelCase as separate words. Four or more marks of punctuation in a row become the first of them,
    and what stands without white space for more than `LONGEST_WORD` characters is taken apart. A text all in
    capitals becomes lower case.
    """
    if not text.isascii():
        text = "".join(map(_readable, text))
    text = " ".join(_CAMEL.sub(" ", _MARKUP.sub(" ", text)).split())
    text = _LONG_CHUNK.sub(_apart, _PUNCTUATION_RUN.sub(r"\1 ", text))
    text = " ".join(text.split())
    return text.lower() if text.isupper() else text


@functools.lru_cache(maxsize=4096)
def _readable(character: str) -> str:
    """What a character is read as: itself, a space or nothing."""
    if character.isascii() or character in _TYPOGRAPHY:
        return character
    category = unicodedata.category(character)
    if category[0] in "LN":
        return character
    return "" if category in ("Cf", "Mn", "Me") else " "


def _apart(chunk: re.Match[str]) -> str:
    return " ".join(piece[:LONGEST_WORD] for piece in _PIECE.findall(chunk[0]))
