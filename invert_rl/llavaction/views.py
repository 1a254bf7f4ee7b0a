"""One annotated action seen as the tasks of the paper's section 3.2: a prompt, an answer and a part of the video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.llavaction.prompts import (
    PERSPECTIVES,
    STYLES,
    caption_prompt,
    choice_prompt,
    detection_prompt,
    direct_prompt,
    open_prompt,
)
from invert_rl.llavaction.questions.mqa import LETTERS, check_question
from invert_rl.llavaction.questions.several import answers_of, several_text
from invert_rl.video.ref import VideoRef

VIEWS = ("mqa", "temporal", "direct", "caption", "qa")
WITH_CLASSES = ("mqa", "temporal", "direct")
"""Views whose clips have an action class for the heads; captions and open questions have no clear one (paper, 3.3)."""
PADDING = 3.0
"""Seconds put around an action for temporal detection (eq. 4)."""
PRIOR_PROBABILITY = 0.3
"""Share of the multiple-choice questions that name the actions before, where there are such (section 3.2)."""

ANSWER_FORMATS = ("letter", "text")
"""``C. open door`` [R], or the option's text alone [C], for models too small to learn letters."""


@dataclass(frozen=True)
class ViewSettings:
    """What the views of a run have in common."""

    perspective: str = "egocentric"
    time_instruction: bool = True
    padding: float = PADDING
    prior_probability: float = PRIOR_PROBABILITY
    answer_format: str = "letter"
    prompt_style: str = "paper"

    def __post_init__(self) -> None:
        if self.perspective not in PERSPECTIVES:
            raise DataError(f"perspective must be one of {', '.join(PERSPECTIVES)}, found {self.perspective!r}")
        if self.answer_format not in ANSWER_FORMATS:
            raise DataError(f"answer_format must be one of {', '.join(ANSWER_FORMATS)}, found {self.answer_format!r}")
        if self.prompt_style not in STYLES:
            raise DataError(f"prompt_style must be one of {', '.join(STYLES)}, found {self.prompt_style!r}")
        if not 0 <= self.prior_probability <= 1:
            raise DataError(f"prior_probability must be in [0, 1], found {self.prior_probability}")
        if not self.padding > 0:
            raise DataError(f"padding must be a positive number of seconds, found {self.padding}")


@dataclass(frozen=True)
class Sample:
    """One thing to teach."""

    view: str
    prompt: str
    answer: str
    ref: VideoRef
    """The part of the video that is shown, seconds."""
    has_class: bool
    """Whether the heads learn from it."""


def sample_of(view: str, row: Row, rng: np.random.Generator, settings: ViewSettings) -> Sample:
    """The sample of one view of a row; ``rng`` draws what is random about it.

    ``mqa``, ``temporal`` and ``direct`` need a row of ``build-mqa``; ``caption`` and ``qa`` one of
    `invert_rl.llavaction.reformulated`. Raises `DataError` for a row that does not fit.
    """
    if view == "mqa":
        return _mqa(row, rng, settings)
    if view == "temporal":
        return _temporal(row, rng, settings)
    start, end = row.window
    ref = VideoRef(row.video, start, end)
    if view == "direct":
        return Sample(view, direct_prompt(settings.perspective, settings.prompt_style), row.query, ref, has_class=True)
    if view == "caption":
        prompt = caption_prompt(settings.perspective, settings.prompt_style)
        return Sample(view, prompt, _text(row, "caption"), ref, has_class=False)
    if view == "qa":
        prompt = open_prompt(_text(row, "question"), settings.prompt_style)
        return Sample(view, prompt, _text(row, "answer"), ref, has_class=False)
    raise DataError(f"unknown view {view!r}; the views are {', '.join(VIEWS)}")


def choice_answer(row: Row, answer_format: str = "letter") -> str:
    """The true option as one of `ANSWER_FORMATS`; the true options, where there are several."""
    places = answers_of(row)
    if places is not None:
        return several_text(places, row.meta["options"], answer_format)
    return choice_text(LETTERS.index(row.meta["answer"]), row.meta["options"], answer_format)


def choice_text(place: int, options: Sequence[str], answer_format: str = "letter") -> str:
    """An option as one of `ANSWER_FORMATS`."""
    return f"{LETTERS[place]}. {options[place]}" if answer_format == "letter" else options[place]


def priors_of(row: Row, texts: Mapping[str, str] | None = None) -> list[tuple[float, str]]:
    """The two actions before a row, the earlier first: how many seconds ago each started, and its text.

    The texts are the row's, or those of ``texts`` by segment id (a model's own predictions). Empty where the row has
    no such actions or one of them has no text.
    """
    priors: Sequence[Mapping[str, Any]] = row.meta.get("priors") or ()
    found = [(float(p["offset"]), p["narration"] if texts is None else texts.get(p["id"], "")) for p in priors]
    return found if len(found) == 2 and all(text for _, text in found) else []


def _mqa(row: Row, rng: np.random.Generator, settings: ViewSettings) -> Sample:
    check_question(row)
    with_priors = bool(rng.random() < settings.prior_probability)
    priors = priors_of(row) if with_priors else ()
    several = "answers" in row.meta
    prompt = choice_prompt(row.meta["options"], settings.perspective, priors, settings.prompt_style, several)
    answer = choice_answer(row, settings.answer_format)
    return Sample("mqa", prompt, answer, VideoRef(row.video, *row.window), has_class=True)


def _temporal(row: Row, rng: np.random.Generator, settings: ViewSettings) -> Sample:
    """Equation 4: the padding falls on both sides by a share drawn from U(0, 1), and is clamped to the video.

    The answer's times are exact, relative to where the clip begins. The prompt's ``start: end`` is what is taught [C];
    the released code writes a comma there, and so does its style.
    """
    start, end = row.window
    share = float(rng.random())
    first = max(0.0, start - share * settings.padding)
    last = min(row.duration, end + (1 - share) * settings.padding)
    mark = "," if settings.prompt_style == "released" else ":"
    return Sample(
        "temporal",
        detection_prompt(row.query, end - start),
        f"{start - first:.2f}{mark} {end - first:.2f}",
        VideoRef(row.video, first, last),
        has_class=True,
    )


def _text(row: Row, name: str) -> str:
    value = row.meta.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"row {row.id!r}: meta.{name} must be a text")
    return value.strip()
