"""The format reward: whether a completion has exactly the form that its prompt asks for (paper, eq. 9).

A form is written ``<layout>/<kind>``, for instance ``think/span``; several kinds that are allowed are joined by
``|``, as in ``answer/span|none``.

=========== ==========================================================================================
layout
=========== ==========================================================================================
``think``   ``<think>…</think> <answer>…</answer>``: a thought, then the answer
``answer``  ``<answer>…</answer>``
``bare``    no tags: the whole text is the answer
=========== ==========================================================================================

=============== ======================================================================================
kind
=============== ======================================================================================
``span``        ``a to b``, two decimal numbers of seconds without unit or sign
``spans``       a JSON list of [start, end] pairs: ``[[1.5, 2], [5, 9]]``, ``[]``
``span_text``   words that name one span, as "The event happens in 12 - 17.5 seconds"
``text``        any text
``none``        a statement that nothing matches (`rewards.answers.says_nothing_matches`)
=============== ======================================================================================

``think`` demands a thought: an empty think block has not the form. The other layouts are those of answers without
thought, and an empty think block before the answer, which models with a switch for thinking write, is allowed there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

from rewards.answers import TAG, Completion, completion_text, parse_span, says_nothing_matches
from rewards.errors import RewardError
from rewards.registry import register_reward

THINK = ("<think>", "</think>")
ANSWER = ("<answer>", "</answer>")
LAYOUTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "think": ((*THINK, *ANSWER),),
    "answer": (ANSWER, (*THINK, *ANSWER)),
    "bare": ((), THINK),
}
"""The tags of each layout, in order; of several ways the one without thought first."""

DEFAULT_FORMAT = "think/span"
TASK_FORMATS = {"tvg": DEFAULT_FORMAT}
"""The form that a task's name alone stands for; ``think/text`` for any other."""

_DECIMAL = r"[0-9]{1,7}(?:\.[0-9]{1,12})?"
_SPAN = re.compile(rf"\s*{_DECIMAL}\s+to\s+{_DECIMAL}\s*", re.ASCII)
_PAIR = rf"\[\s*{_DECIMAL}\s*,\s*{_DECIMAL}\s*\]"
_SPANS = re.compile(rf"\s*\[\s*(?:{_PAIR}(?:\s*,\s*{_PAIR})*\s*)?\]\s*", re.ASCII)

KINDS: dict[str, Callable[[str], bool]] = {
    "span": lambda answer: _SPAN.fullmatch(answer) is not None,
    "spans": lambda answer: _SPANS.fullmatch(answer) is not None,
    "span_text": lambda answer: parse_span(answer) is not None,
    "text": lambda answer: bool(answer.strip()),
    "none": says_nothing_matches,
}


def matches_format(text: str, answer_format: str) -> bool:
    """Whether ``text`` has exactly the form ``answer_format`` (see the module's text).

    White space may stand before, between and after the blocks, nothing else may; the tags are lower case and each
    occurs once; the answer is not empty. Time is linear in the length of the text. Raises `RewardError` for an
    unknown form.
    """
    layout, kinds = parse_format(answer_format)
    tags = list(TAG.finditer(text))
    names = tuple(tag.group() for tag in tags)
    if names not in LAYOUTS[layout]:
        return False
    borders = [0, *(border for tag in tags for border in tag.span()), len(text)]
    pieces = [text[start:end] for start, end in zip(borders[::2], borders[1::2], strict=True)]
    inside = dict(zip(names[::2], pieces[1::2], strict=True))
    outside = "".join(pieces[::2])
    thought = inside.get("<think>")
    if thought is not None and (layout == "think") != bool(thought.strip()):
        return False
    if layout == "bare":
        answer = outside
    else:
        answer = inside["<answer>"]
        if outside.strip():
            return False
    return bool(answer.strip()) and any(KINDS[kind](answer) for kind in kinds)


@functools.cache
def parse_format(answer_format: str) -> tuple[str, tuple[str, ...]]:
    """Layout and kinds of a form; raises `RewardError` that names the known ones."""
    layout, slash, names = answer_format.partition("/")
    kinds = tuple(names.split("|"))
    if not slash or layout not in LAYOUTS or not all(kind in KINDS for kind in kinds):
        raise RewardError(
            f"answer format {answer_format!r} is unknown; write LAYOUT/KIND with a layout of {', '.join(LAYOUTS)} and "
            f"one or several kinds of {', '.join(KINDS)}, as in 'answer/span|none'"
        )
    return layout, kinds


def has_format(text: str, task: str) -> bool:
    """Whether ``text`` is exactly ``<think>…</think> <answer>…</answer>``, with ``a to b`` as the answer of "tvg"."""
    return matches_format(text, TASK_FORMATS.get(task, "think/text"))


@register_reward("format")
def format_reward(
    completions: Sequence[Completion],
    task: Sequence[str] | None = None,
    answer_format: Sequence[str | None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """1.0 for each completion with exactly the form of its row, else 0.0 (paper, eq. 9); never None.

    The form is the row's ``answer_format`` (see the module's text); where there is none, what its ``task`` stands
    for (`has_format`), and without either `DEFAULT_FORMAT`.
    """
    nothing = [None] * len(completions)
    names: Sequence[str | None] = nothing if task is None else task
    forms: Sequence[str | None] = nothing if answer_format is None else answer_format
    scores: list[float | None] = []
    for completion, name, form in zip(completions, names, forms, strict=True):
        if form is None:
            form = DEFAULT_FORMAT if name is None else TASK_FORMATS.get(name, "think/text")
        scores.append(float(matches_format(completion_text(completion), form)))
    return scores
