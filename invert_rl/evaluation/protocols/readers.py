"""How published evaluators read the spans of an answer: seconds as written, first span first, [] where none is found.

They differ from `rewards.answers` and from each other: some read the thought, too, some swap ends, some take any two
numbers. A named protocol (`invert_rl.evaluation.protocols.named`) says which of them it uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Spans = list[tuple[float, float]]

_DASHED = r"(\d+\.?\d*)\s*-\s*(\d+\.?\d*)"
_CLOCK = r"\b\d{1,2}:\d{2}(?::\d{2})?(?:\.\d+)?\b"
_KEYWORDS = ("start", "end", "happen")
"""lmms-eval's keywords are these and longer ones that hold them."""


def time_r1(text: str) -> Spans:
    """Time-R1, TimeZero, VideoChat-R1: the last ``a to b`` or ``a and b`` of the whole text, thought included."""
    found = re.findall(r"(\d+\.?\d*) (?:to|and) (\d+\.?\d*)", text)
    return _floats(found[-1:])


def timelens(text: str) -> Spans:
    """TimeLens and lmms-eval's timelens tasks: clock times in pairs, else all ``a - b``, else all ``a to b``, else all
    numbers in pairs; the first pair counts."""
    text = text.lower()
    times = [_clock_seconds(time) for time in re.findall(_CLOCK, text)]
    if len(times) > 1:
        return _paired(times)[:1]
    for pattern in (_DASHED, r"(\d+\.?\d*)\s+to\s+(\d+\.?\d*)"):
        if found := re.findall(pattern, text):
            return _floats(found[:1])
    return _paired([float(number) for number in re.findall(r"\b\d+\.?\d*\b", text)])[:1]


def lmms_eval(text: str) -> Spans:
    """lmms-eval's temporal_grounding_charades: "to" is a dash everywhere and sentences with a keyword come first; the
    first ``m:s - m:s``, else ``a - b``, else the first clock times of the keyword sentences, else their first numbers,
    with the ends in order."""
    sentences = re.split(r"[!?\n]", text.lower().replace("to", "-"))
    candidates = [part for part in sentences if any(word in part for word in _KEYWORDS)]
    ordered = "\n".join(candidates + [part for part in sentences if part not in candidates])
    found = re.findall(rf"({_CLOCK})\s*-\s*({_CLOCK})", ordered)
    spans = [(_clock_seconds(start), _clock_seconds(end)) for start, end in found]
    spans = spans or _floats(re.findall(r"(\d+\.*\d*)\s*-\s*(\d+\.*\d*)", ordered))
    for pattern in (r"\b\d{1,2}:\d{2}(?::\d{2})?\b", r"\b\d+(?:\.\d+)?\b"):
        if not spans:
            firsts = [found.group() for found in (re.search(pattern, part) for part in candidates) if found]
            spans = _paired([_clock_seconds(time) for time in firsts])
    return [(min(span), max(span)) for span in spans[:1]]


def museg(text: str) -> Spans:
    """MUSEG: all numbers of the only answer block, in pairs; an odd count or one pair without length empties it."""
    blocks = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    if len(blocks) != 1:
        return []
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", blocks[0])]
    spans = _paired(numbers)
    return [] if len(numbers) % 2 or any(start >= end for start, end in spans) else spans


def timelens2(text: str) -> Spans:
    """TimeLens2's evaluation: all ``[a, b]``, else all ``a - b`` or ``a to b``, else all numbers in pairs."""
    for pattern in (
        r"\[\s*(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)\s*\]",
        r"(-?\d+(?:\.\d+)?)\s*(?:-|to)\s*(-?\d+(?:\.\d+)?)",
    ):
        if found := re.findall(pattern, text.lower()):
            return _floats(found)
    return _paired([float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)])


def extreme_when(text: str) -> Spans:
    """lmms-eval's ExtremeWhenBench: the last ``a - b``, ``a to b`` or ``a ~ b``, with its ends in order."""
    found = _floats(re.findall(r"(\d+(?:\.\d+)?)\s*(?:-|to|~)\s*(\d+(?:\.\d+)?)", text.lower()))
    return [(min(span), max(span)) for span in found[-1:]]


def first_in_order(text: str) -> Spans:
    """E.T. Bench: the first pair that `timelens2` reads, with its ends in order."""
    return [(min(span), max(span)) for span in timelens2(text)[:1]]


READERS: dict[str, Callable[[str], Spans]] = {
    reader.__name__: reader for reader in (time_r1, timelens, lmms_eval, museg, timelens2, extreme_when, first_in_order)
}
"""By the name that `invert_rl.evaluation.protocols.rules.Rules.reader` has."""


def _floats(pairs: list[tuple[str, str]]) -> Spans:
    spans = []
    for start, end in pairs:
        try:
            spans.append((float(start), float(end)))
        except ValueError:  # "1..5", which lmms-eval's pattern takes and Python does not
            continue
    return spans


def _paired(numbers: list[float]) -> Spans:
    return list(zip(numbers[::2], numbers[1::2], strict=False))


def _clock_seconds(time: str) -> float:
    seconds = 0.0
    for part in time.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
