"""Temporal video grounding: the whole video in, the span of the query out (paper, eq. 8 to 10)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_prep.rows import Row, Window, is_irrelevant
from invert_rl.evaluation.protocols.rules import Rules
from invert_rl.evaluation.scores.grounding import best_ious, grounding_metrics, set_ious, set_metrics
from invert_rl.evaluation.scores.thought_spans import thought_metrics
from invert_rl.evaluation.scores.wrong_event import wrong_event_rate
from invert_rl.tasks.base import SPAN, SPAN_TEXT, SPANS, Task
from rewards.answers import answer_or_bare_text, parse_span, read_spans

if TYPE_CHECKING:
    from invert_rl.evaluation.predictions import Prediction


@dataclass(frozen=True)
class Grounding(Task):
    """TVG; with ``windows`` "all" every moment is asked and the answer is a list of spans."""

    rules: Rules | None = None
    """How a named protocol counts its answers (`invert_rl.evaluation.protocols.named`); None: as `metrics` says."""

    def rows(self, rows: Iterable[Row]) -> list[Row]:
        used = super().rows(rows)
        return used if self.rules is None else self.rules.asked(used)

    def usable(self, row: Row) -> bool:
        """Whether it can be asked: also of a row that nobody has annotated, whose answer is not counted."""
        return super().usable(row) or (not row.windows and not is_irrelevant(row))

    def answer(self, row: Row) -> str:
        windows = row.clip_windows
        if self.kind == SPANS:
            return "[" + ", ".join(f"[{start:.2f}, {end:.2f}]" for start, end in windows) + "]"
        start, end = windows[0]
        if self.kind == SPAN_TEXT:
            return f"The event happens in {start:.2f} - {end:.2f} seconds."
        return f"{start:.2f} to {end:.2f}"

    def read(self, text: str, row: Row) -> list[Window] | None:
        if self.rules is not None and self.rules.reader:
            return self.rules.read(text, row) or None
        answer = answer_or_bare_text(text)
        if self.windows == "all":
            spans = read_spans(answer)
        else:
            span = parse_span(answer)
            spans = None if span is None else [span]
        return None if spans is None else [(row.from_clip(start), row.from_clip(end)) for start, end in spans]

    def default_rewards(self) -> dict[str, float]:
        return {"format": 1.0, "set_iou": 1.0} if self.windows == "all" else super().default_rewards()

    def metrics(
        self, predictions: Sequence[Prediction | None], rows: Sequence[Row], strict: bool = False
    ) -> dict[str, float]:
        """R1@m, mIoU and n; with ``windows`` "all" of the set IoU of all spans with all windows; or as `rules` say.

        Where rows know the events, also ``wrong_event`` (`invert_rl.evaluation.scores.wrong_event`), and where
        answers have thoughts, what spans these hold (`invert_rl.evaluation.scores.thought_spans`).
        """
        windows = [prediction.windows if prediction else [] for prediction in predictions]
        if self.rules is not None:
            metrics = self.rules.metrics(predictions, rows)
        else:
            metrics = (set_metrics if self.windows == "all" else grounding_metrics)(windows, rows, strict)
        rate = wrong_event_rate(windows, rows)
        events = {} if rate is None else {"wrong_event": rate}
        return {**metrics, **events, **thought_metrics(predictions, rows)}

    def values(self, predictions: Sequence[Prediction | None], rows: Sequence[Row]) -> list[float]:
        windows = [prediction.windows if prediction else [] for prediction in predictions]
        return (set_ious if self.windows == "all" else best_ious)(windows, rows).tolist() if rows else []


TVG = Grounding(
    name="tvg",
    question='To accurately pinpoint the event "{query}" in the video, determine the precise time period of the event.',
    wanted='the start and end times (in seconds, precise to two decimal places) in the format "start time to end time"',
    example='For example: "12.54 to 17.83".',
    forward=True,
    kind=SPAN,
    rewards={"iou": 1.0},
)
