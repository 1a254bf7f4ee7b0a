"""What a task is: a question about a row's video, and everything that depends on which question it is."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from data_prep.rows import Row, Window, split_windows
from invert_rl.evaluation.protocols.rules import clean_query
from invert_rl.video.ref import VideoRef
from rewards.answers import answer_or_bare_text, extract_answer

if TYPE_CHECKING:
    from invert_rl.evaluation.predictions import Prediction

WindowMode = Literal["split", "any", "all"]
WINDOW_MODES: tuple[WindowMode, ...] = get_args(WindowMode)
"""Queries with several windows: one row per window; the whole row, of which any one moment may be named; the whole
row, of which all moments are asked."""

SPAN, SPANS, SPAN_TEXT, TEXT = "span", "spans", "span_text", "text"
"""Kinds of answers, as `rewards.format` knows them: ``a to b``, ``[[a, b], …]``, words around one span, any text."""
THINK, ANSWER, BARE = "think", "answer", "bare"
"""Layouts of a completion: thought and answer in tags, the answer in tags, the answer alone."""

FORM_REWARDS = ("format", "parse_penalty")
"""Rewards that look at the form of an answer only: training on them alone teaches nothing about the video."""


def normalise_query(query: str) -> str:
    """Lower-case a query and drop its final period, as the field's prompts do."""
    return query.strip().lower().removesuffix(".").rstrip()


@dataclass(frozen=True)
class Task:
    """One task; make an object of it or, to change what a method does, of a subclass, and `register_task` it.

    ``question``, ``wanted`` and ``example`` become a prompt by a preset's template
    (`invert_rl.tasks.presets`); ``{query}``, ``{sentence}`` (the query as written, without dots around it),
    ``{masked_query}`` and ``{duration}`` (seconds) in them are filled from the row, and what `fields` of a subclass
    adds.
    """

    name: str
    """Short name used in options, logs and columns."""
    question: str
    """What is asked, without a word on the form of the answer."""
    wanted: str
    """What is to be given as the answer, such as "the single verb"."""
    example: str = ""
    """An example of the answer's form, put at the end of the prompt."""
    label: str = ""
    """Name of its metric and in reports; default: the name in capitals."""
    segment: bool = False
    """Whether only the ground-truth segment is shown."""
    needs_verbs: bool = False
    """Whether a row without a verb in its query cannot be used."""
    forward: bool = False
    """Whether it is drawn with probability ``tvg_probability``; the others share what is left (paper, eq. 13)."""
    kind: str = TEXT
    """Kind of its answers: text, span, spans or span_text."""
    rewards: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Default rewards of the content by weight: names or ``module:function``; format comes on top with weight 1."""
    extra_fields: tuple[str, ...] = ()
    """Names that `fields` of a subclass fills besides query, masked_query and duration."""

    prompt: str = ""
    """The user's text as the preset in use words it."""
    layout: str = THINK
    """Layout of completions in the preset in use: think, answer or bare."""
    video_first: bool = True
    """Whether the video stands before the text."""
    system: str = ""
    """System prompt of the preset in use."""
    windows: WindowMode = "any"
    """What is asked of queries with several windows."""

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", self.name.upper())
        if not self.prompt:
            from invert_rl.tasks.presets import default_template

            object.__setattr__(self, "prompt", default_template().fill(self))

    # -- which rows, and what is shown ------------------------------------------------------------------------------

    def rows(self, rows: Iterable[Row]) -> list[Row]:
        """The rows that it is asked of, in order: of the whole rows or of one per window, those that `usable` takes."""
        whole = not self.segment and self.windows != "split"
        return [row for row in (rows if whole else split_windows(rows)) if self.usable(row)]

    def usable(self, row: Row) -> bool:
        """Whether it can be asked of a row; one without windows has no segment and no answer."""
        return bool(row.windows) and (not self.needs_verbs or bool(row.meta.get("verbs")))

    def video(self, row: Row) -> VideoRef:
        """What is shown: the row's whole video, or the ground-truth segment of it (seconds of the video)."""
        start, end = (row.to_clip(row.window[0]), row.to_clip(row.window[1])) if self.segment else (None, None)
        return VideoRef(row.video, start, end, row.clip)

    # -- question and answer ----------------------------------------------------------------------------------------

    @property
    def answer_format(self) -> str:
        """Layout and kind, such as "think/span": what the format reward asks for (`rewards.format`)."""
        return f"{self.layout}/{self.kind}"

    @property
    def names_spans(self) -> bool:
        """Whether its answers are spans."""
        return self.kind != TEXT

    @property
    def stream(self) -> int:
        """Number of its random streams: its place among the built-in tasks, for others a hash of its name."""
        from invert_rl.tasks.registry import TASKS

        place = list(TASKS).index(self.name) if self.name in TASKS else len(TASKS)
        return place if place < BUILT_IN else zlib.crc32(self.name.encode())

    def fields(self, row: Row) -> dict[str, str]:
        """What fills the braces of its prompt."""
        return {
            "query": normalise_query(row.query),
            "sentence": clean_query(row.query),
            "masked_query": normalise_query(row.meta.get("masked_query", "")),
            "duration": f"{row.shown_seconds:.2f}",
        }

    def worded_for(self, row: Row) -> Task:
        """The task as it is worded for a row: by the preset of ``meta.source_prompt`` (mixtures), else by the run's."""
        name = row.meta.get("source_prompt")
        if name is None:
            return self
        from invert_rl.tasks.presets import reworded

        return reworded(self, name)

    def text(self, row: Row) -> str:
        """The user's text for a row."""
        return self.worded_for(row).prompt.format(**self.fields(row))

    def answer(self, row: Row) -> str | None:
        """The annotated answer that supervised fine-tuning teaches, without tags; None where there is none."""
        return None

    def thought(self, row: Row) -> str:
        """What supervised fine-tuning teaches to think; ours, as the paper shows none."""
        return f"The video shows: {normalise_query(row.query)}"

    def completion(self, answer: str, thought: str) -> str:
        """An answer in the layout in use."""
        if self.layout == BARE:
            return answer
        thinking = f"<think>{thought}</think> " if self.layout == THINK else ""
        return f"{thinking}<answer>{answer}</answer>"

    def target(self, row: Row) -> str:
        """The whole completion to teach; raises `ValueError` for a task without annotated answers."""
        answer = self.worded_for(row).answer(row)
        if answer is None:
            raise ValueError(f"task {self.name!r} has no answers to teach: its class must define answer(row)")
        return self.worded_for(row).completion(answer, self.thought(row))

    def read(self, text: str, row: Row) -> list[Window] | None:
        """The windows that a completion names, seconds of the file; None where it cannot be read."""
        return [] if answer_or_bare_text(text) else None

    def is_valid(self, text: str, row: Row) -> bool:
        """Whether a completion holds an answer where its layout wants it, and of its kind."""
        if self.worded_for(row).layout != BARE and extract_answer(text) is None:
            return False
        return self.read(text, row) is not None

    # -- rewards and metrics ----------------------------------------------------------------------------------------

    def default_rewards(self) -> dict[str, float]:
        """Rewards by weight unless the run says otherwise: format and the content's (paper, eq. 10 and 11)."""
        return {"format": 1.0, **self.rewards}

    def columns(self, row: Row) -> dict[str, Any]:
        """What the rewards get of a row, one value a column; times in seconds of the row's clip, as a model answers."""
        return {
            "task": self.name,
            "id": row.id,
            "query": row.query,
            "windows": [list(window) for window in row.clip_windows],
            "duration": row.shown_seconds,
            "verbs": list(row.meta.get("verbs", ())),
            "answer_format": self.worded_for(row).answer_format,
        }

    def metrics(
        self, predictions: Sequence[Prediction | None], rows: Sequence[Row], strict: bool = False
    ) -> dict[str, float]:
        """Metrics in percent over ``rows``, each with its prediction or None; here the mean score under `label`.

        ``strict``: thresholds are to be exceeded, not only reached.
        """
        return {self.label: 100 * sum(p.score for p in predictions if p) / max(1, len(rows))}

    def values(self, predictions: Sequence[Prediction | None], rows: Sequence[Row]) -> list[float]:
        """How good each answer is, in [0, 1]: what a report sorts by and difficulty is measured with."""
        return [prediction.score if prediction else 0.0 for prediction in predictions]


BUILT_IN = 5
"""Tasks of this package; they keep their random streams whatever plugins register."""
