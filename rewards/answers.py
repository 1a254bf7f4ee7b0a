"""Which part of a completion is its answer, and which span an answer names.

The answer policy
-----------------
A completion is read in one pass from left to right. Tags are ``<think>``, ``</think>``, ``<answer>`` and
``</answer>`` in any ASCII letter case; everything else is text.

1. *Thought never counts.* A think block runs from ``<think>`` to the next ``</think>``, whatever stands
   between them, answer tags included. When a ``</think>`` comes before any ``<think>`` (the chat template
   opened the block), everything before it is thought. A ``<think>`` that is never closed ends at the next
   ``<answer>`` or, without one, at the end of the text.
2. *The last answer counts.* Of several answer blocks outside thought the last complete one is the answer. A
   block is delimited by the nearest pair of tags, so the inner of two nested blocks counts.
3. *A cut-off answer counts* only when no block is complete: an ``<answer>`` without its end runs to the end
   of the text.
4. *No answer tag means no answer* (`extract_answer` returns None). The content rewards then read the bare
   text outside thought (`answer_or_bare_text`): the format reward alone punishes missing tags.

A span (`parse_span`) is two times joined by ``to``, ``-``, ``–``, ``—`` or ``and``, or two numbers of seconds in
brackets as in JSON (``[12.5, 17.8]``). A time is a decimal number of seconds with an optional unit (``12.5``,
``12.5s``, ``12.5 seconds``) or a clock (``0:12``, ``0:17.8``, ``1:02:03``). Words and brackets around the span are
ignored, but an answer with any other digit names no span, nor does one with a second span where one is asked:
hedging does not pay. Signs, exponents, ``nan``, ``inf``, digits outside ASCII and numbers of more than 7 digits
before the point are no times. Swapped or equal ends are a span, of which every reward is 0.

An answer can also say that nothing in the video matches (`says_nothing_matches`): ``[]``, or nothing but a wording
such as ``none``, ``no match``, ``not in the video`` or ``the event does not occur in the video``. It is an answer
without a span (`read_spans` gives an empty list), unlike an answer that cannot be read (None).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Message: TypeAlias = Mapping[str, Any]
Completion: TypeAlias = str | Sequence[Message]
"""What a trainer hands to a reward: the text, or TRL's conversational list of messages."""

Span: TypeAlias = tuple[float, float]
"""Start and end in seconds, in the order the answer gives them."""

TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE | re.ASCII)

_NUMBER = r"[0-9]{1,7}(?:\.[0-9]{1,12})?"
_CLOCK = r"(?:[0-9]{1,3}:)?[0-9]{1,3}:[0-9]{1,2}(?:\.[0-9]{1,12})?"
_TIME = rf"{_CLOCK}|{_NUMBER}(?: ?(?:seconds|second|secs|sec|s))?"
_SPAN = re.compile(
    rf"(?<![\w.:+\-−])({_TIME})(?: (?:to|and) | ?[-–—] ?)({_TIME})(?![\w:]|\.[0-9])"
    rf"|\[ ?({_NUMBER}) ?, ?({_NUMBER}) ?\]",
    re.IGNORECASE | re.ASCII,
)
_DIGIT = re.compile(r"\d")

_NO_MATCH = re.compile(
    r"\[ ?(?:\[ ?\])? ?\]|none|null|nil|n/?a|nothing(?: matches| found)?|not found|not present"
    r"|(?:there is )?no (?:match|span|such (?:event|moment|span))(?: found)?(?: in th(?:e|is) video)?"
    r"|(?:(?:it|(?:the |this )?(?:event|query|moment|action)) )?"
    r"(?:(?:is )?not (?:present |shown |found )?in th(?:e|is) video"
    r"|(?:does not|doesn't) (?:happen|occur|appear|exist|match)(?: in th(?:e|is) video)?)",
    re.ASCII,
)


def completion_text(completion: Completion) -> str:
    """The generated text of a completion: the string itself, or the texts of its messages joined.

    A message is a dict with ``content``, a string or a list of parts of which those with ``text`` count.
    """
    if isinstance(completion, str):
        return completion
    texts = []
    for message in completion:
        content = message.get("content")
        if isinstance(content, str):
            texts.append(content)
        elif content is not None:
            texts.extend(str(part["text"]) for part in content if part.get("text") is not None)
    return "\n".join(texts)


def extract_answer(text: str) -> str | None:
    """The text of the answer block that counts (rules 1 to 3 above), stripped; None without an answer tag."""
    complete = None
    cut_off = None
    for piece in _outside_thought(text):
        opened = None
        for tag in TAG.finditer(piece):
            name = tag.group().lower()
            if name == "<answer>":
                opened = tag.end()
            elif name == "</answer>" and opened is not None:
                complete = piece[opened : tag.start()]
                opened = None
        cut_off = None if opened is None else piece[opened:]
    answer = cut_off if complete is None else complete
    return None if answer is None else answer.strip()


def answer_or_bare_text(text: str) -> str:
    """The answer, or without any answer tag the text outside thought (rule 4 above), stripped."""
    answer = extract_answer(text)
    if answer is not None:
        return answer
    return TAG.sub(" ", "\n".join(_outside_thought(text))).strip()


def parse_span(answer_text: str) -> Span | None:
    """The only span that an answer names, in seconds; None when it names none or more than one.

    Both numbers are finite and not negative; they may be equal or swapped, see the module's text.
    """
    spans = parse_spans(answer_text)
    return spans[0] if len(spans) == 1 else None


def parse_spans(answer_text: str) -> list[Span]:
    """All spans of an answer in order, in seconds; empty when any digit is left outside them."""
    return read_spans(answer_text) or []


def read_spans(answer_text: str) -> list[Span] | None:
    """All spans of an answer in order, in seconds: empty when it says that nothing matches, None when it says
    neither, or when any digit is left outside the spans."""
    text = " ".join(answer_text.split())
    spans = [(_seconds(match[1] or match[3]), _seconds(match[2] or match[4])) for match in _SPAN.finditer(text)]
    if not spans:
        return [] if says_nothing_matches(text) else None
    return None if _DIGIT.search(_SPAN.sub(" ", text)) else spans


def says_nothing_matches(answer_text: str) -> bool:
    """Whether an answer says that nothing in the video matches, and nothing else.

    The whole answer is ``[]`` or one of a few wordings (see the module's text), in any letter case, with or without
    quotes around it and a full stop after it.
    """
    text = " ".join(answer_text.replace("’", "'").lower().split()).strip(" .!\"'`")
    return _NO_MATCH.fullmatch(text) is not None


def _outside_thought(text: str) -> list[str]:
    """The pieces of ``text`` outside its think blocks, in order (rule 1 above)."""
    tags = [(tag.group().lower(), tag.start(), tag.end()) for tag in TAG.finditer(text)]
    pieces = []
    start = 0
    first_think = next((tag for tag in tags if tag[0] in ("<think>", "</think>")), None)
    if first_think is not None and first_think[0] == "</think>":
        start = first_think[2]
    thinking = False
    last_close = max((end for name, _, end in tags if name == "</think>"), default=-1)
    for name, tag_start, tag_end in tags:
        if tag_end <= start:
            continue
        if not thinking and name == "<think>":
            pieces.append(text[start:tag_start])
            thinking = True
            start = tag_end
        elif thinking and (name == "</think>" or (name == "<answer>" and tag_start > last_close)):
            thinking = False
            start = tag_end if name == "</think>" else tag_start
    if not thinking:
        pieces.append(text[start:])
    return pieces


def _seconds(time: str) -> float:
    """Seconds of one time that `_TIME` matched: a clock, or a number with an optional unit."""
    if ":" not in time:
        return float(time.rstrip(" secondSECOND"))
    total = 0.0
    for part in time.split(":"):
        total = 60 * total + float(part)
    return total
