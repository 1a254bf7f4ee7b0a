"""Spans that a model writes into its thought before it answers: how good they are without the answer.

Where the thought already holds the span, training the answer may teach copying and no looking (docs/proof.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from data_prep.rows import Row, Window
from rewards.spans import interval_iou

if TYPE_CHECKING:
    from invert_rl.evaluation.predictions import Prediction

_SPAN = re.compile(r"(\d{1,7}(?:\.\d{1,12})?)\s*s?\s*(?:to|and|,|[-\u2013\u2014])\s*(\d{1,7}(?:\.\d{1,12})?)")
"""Two numbers with "to", "and", a comma or a dash between them: generous, as a thought has no format."""
_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)


def thought_of(text: str) -> str:
    """The text within the first think block; empty without one."""
    found = _THOUGHT.search(text)
    return found.group(1) if found else ""


def thought_metrics(predictions: Sequence[Prediction | None], rows: Sequence[Row]) -> dict[str, float]:
    """``thought_span``, the percent of answers whose thought holds a span, and ``thought_mIoU`` of those spans.

    Of several spans the best one counts, so that the number is what a reader of the thought could pick at most; a
    thought without a span counts 0. Empty where no answer has a thought. Rows are those that were asked, in order.
    """
    thoughts = [thought_of(prediction.text) if prediction else "" for prediction in predictions]
    if not any(thoughts):
        return {}
    spans = [_spans(thought, row) for thought, row in zip(thoughts, rows, strict=True)]
    best = [
        max((interval_iou(span, window) for span in found for window in row.windows), default=0.0)
        for found, row in zip(spans, rows, strict=True)
    ]
    return {"thought_span": 100 * sum(map(bool, spans)) / len(rows), "thought_mIoU": 100 * sum(best) / len(rows)}


def _spans(thought: str, row: Row) -> list[Window]:
    pairs = (map(float, match.groups()) for match in _SPAN.finditer(thought))
    return [(row.from_clip(start), row.from_clip(end)) for start, end in pairs]
