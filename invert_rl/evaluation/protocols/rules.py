"""The rules by which grounding answers become numbers, wherever the field has two of them.

`Rules` turns rows and predictions into the ones that a published evaluator would look at, then counts as it does.
Which evaluator has which is in `invert_rl.evaluation.protocols.named`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from data_prep.errors import DataError
from data_prep.rows import Row, Window
from invert_rl.evaluation.chunk_scores import didemo_metrics
from invert_rl.evaluation.protocols.readers import READERS
from invert_rl.evaluation.scores import sets as set_scores
from invert_rl.evaluation.scores.grounding import THRESHOLDS, grounding_metrics, set_ious, summarize_ious

if TYPE_CHECKING:
    from invert_rl.evaluation.predictions import Prediction


@dataclass(frozen=True)
class Rules:
    """How one evaluator counts; the defaults are those of `evaluation.scores.grounding`, windows as annotated."""

    windows: Literal["annotated", "clipped"] = "annotated"
    """Ground truth as annotated, also beyond the end of the video, or as the rows have it."""
    comparison: Literal[">=", ">"] = ">="
    thresholds: tuple[float, ...] = THRESHOLDS
    ranks: tuple[int, ...] = (1,)
    """R{rank}@m for each: the best of so many first windows."""
    measure: Literal["window", "set", "vue_tr", "iop", "f1", "chunks", "refusal"] = "window"
    """IoU with the best of the row's windows; set IoU; VUE-TR's areas; NExT-GQA's IoP; MUSEG's F1; DiDeMo's ranks and
    IoU of chunks; RA-RFT's RA-IoU."""
    unparsable: Literal["zero", "left out"] = "zero"
    """An answer without a window: IoU 0, or not in the denominator."""
    missing: Literal["zero", "left out"] = "zero"
    """A row without an answer, or without its video."""
    reader: str = ""
    """How a text is read: a name of `invert_rl.evaluation.protocols.readers`; empty: as the rewards read it."""
    rounding: Literal["none", "nearest", "outward"] = "none"
    """Predicted times to whole seconds: halves to the even one, or starts down and ends up."""
    swapped: Literal["zero", "ordered"] = "zero"
    """A window that ends before it starts: IoU 0, or put in order."""
    duplicates: Literal["counted", "merged", "merged, query cleaned"] = "counted"
    """Rows of the same video, query and windows; of merged ones the last answer counts."""
    clips: Literal["shown", "ignored"] = "shown"
    """Rows with a clip: the clip is the video; or the whole file is, while windows stay relative to the clip."""
    unscorable: tuple[int, int] = (0, 0)
    """Rows of the published file that no conversion keeps and no answer can hit, and how many it has in all: they are
    in the denominator of a data file that has all the others."""

    def describe(self) -> dict[str, Any]:
        """All rules that shape a number, for a protocol; equal for equal rules."""
        return json.loads(json.dumps(asdict(self)))

    # -- what is asked ----------------------------------------------------------------------------------------------

    def asked(self, rows: Iterable[Row]) -> list[Row]:
        """The rows as this evaluator shows and counts them; raises `DataError` for rows of an older conversion."""
        return [self._asked(row) for row in rows]

    def _asked(self, row: Row) -> Row:
        if self.windows == "annotated":
            row = replace(row, windows=annotated_windows(row))
        if self.clips == "ignored" and row.clip is not None:
            row = replace(row, clip=None, windows=row.clip_windows)
        return row

    def read(self, text: str, row: Row) -> list[Window]:
        """The windows of an answer in seconds of the file, as `reader` finds them."""
        return [(row.from_clip(start), row.from_clip(end)) for start, end in READERS[self.reader](text)]

    # -- what is counted --------------------------------------------------------------------------------------------

    def counted(
        self, predictions: Sequence[Prediction | None], rows: Sequence[Row]
    ) -> tuple[list[list[Window]], list[Row]]:
        """The windows of each row in the denominator, adjusted as the rules say, and those rows."""
        kept: dict[Any, tuple[list[Window], Row]] = {}
        for number, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
            answered = prediction is not None and prediction.status in ("ok", "unparsable")
            windows = list(prediction.windows) if prediction is not None else []
            if self.measure != "refusal" and (
                (self.missing == "left out" and not answered)
                or (self.unparsable == "left out" and answered and not windows)
            ):
                continue
            kept[self._identity(row, number)] = ([self._adjusted(window, row) for window in windows], row)
        return [windows for windows, _ in kept.values()], [row for _, row in kept.values()]

    def _identity(self, row: Row, number: int) -> Any:
        if self.duplicates == "counted":
            return number
        query = clean_query(row.query) if self.duplicates == "merged, query cleaned" else row.query
        return row.video, query, row.windows

    def _adjusted(self, window: Window, row: Row) -> Window:
        start, end = (row.to_clip(time) for time in window)
        if self.swapped == "ordered":
            start, end = min(start, end), max(start, end)
        if self.rounding == "nearest":
            start, end = float(round(start)), float(round(end))
        elif self.rounding == "outward":
            start, end = float(math.floor(start)), float(math.ceil(end))
        else:
            return window if self.swapped == "zero" else (row.from_clip(start), row.from_clip(end))
        return row.from_clip(start), row.from_clip(end)

    def metrics(self, predictions: Sequence[Prediction | None], rows: Sequence[Row]) -> dict[str, float]:
        """Metrics in percent and ``n``, the denominator; ``rows`` are `asked` ones, each with its prediction or None.

        All are 0 and ``n`` is 0 where no row is left to be counted.
        """
        windows, used = self.counted(predictions, rows)
        if not used and rows:
            return {**replace(self, missing="zero", unparsable="zero").metrics([None], rows[:1]), "n": 0}
        strict = self.comparison == ">"
        if self.measure == "refusal":
            return set_scores.refusal_metrics(predictions, rows, self.thresholds, strict)
        if self.measure == "vue_tr":
            return set_scores.vue_tr_metrics(windows, [row.windows for row in used], self.thresholds, strict)
        if self.measure == "iop":
            return set_scores.iop_metrics(windows, [row.windows for row in used], self.thresholds, strict)
        if self.measure == "f1":
            return set_scores.f1_metrics(windows, [row.windows for row in used], self.thresholds, strict)
        if self.measure == "chunks":
            return didemo_metrics(windows, used)
        if self.measure == "set":
            metrics = summarize_ious(set_ious(windows, used)[:, None], strict, self.thresholds, (1,))
        else:
            metrics = grounding_metrics(windows, used, strict, self.thresholds, self.ranks)
        lost, published = self.unscorable
        if lost and len(used) + lost == published:
            metrics = {name: value * len(used) / published for name, value in metrics.items()} | {"n": published}
        return metrics


def annotated_windows(row: Row) -> tuple[Window, ...]:
    """The row's windows as they were annotated, before a conversion clipped them to the video, in seconds.

    Raises `DataError` where ``meta.annotated_windows`` does not fit the row's windows.
    """
    annotated = row.meta.get("annotated_windows")
    if annotated is None:
        return row.windows
    if len(annotated) != len(row.windows):
        raise DataError(
            f"row {row.id!r}: {len(annotated)} annotated windows for {len(row.windows)} windows; convert the data anew"
        )
    return tuple((float(start), float(end)) for start, end in annotated)


def clean_query(query: str) -> str:
    """TimeLens' form of a query: runs of blanks are one, blanks and dots around it are dropped."""
    return re.sub(r"\s+", " ", query).strip().strip(".").strip()


def changes_of(rules: Rules, rows: Sequence[Row]) -> dict[str, Rules]:
    """The same rules with the other of two practices of the field, by what is other, where it can change a number.

    Windows clipped or annotated, IoU >= or >, times rounded or not, answers without a window and rows without an
    answer counted or left out, swapped ends put in order or not.
    """
    others: dict[str, Rules] = {}
    if any(annotated_windows(row) != row.windows for row in rows) and rules.clips == "shown":
        other: Any = "clipped" if rules.windows == "annotated" else "annotated"
        others[f"windows {other}"] = replace(rules, windows=other)
    if rules.measure in ("window", "set"):
        comparison: Any = ">" if rules.comparison == ">=" else ">="
        others[f"IoU {comparison} m"] = replace(rules, comparison=comparison)
    if rules.rounding != "none":
        others["times as answered, not rounded"] = replace(rules, rounding="none")
    if "left out" in (rules.missing, rules.unparsable):
        others["every row counted"] = replace(rules, missing="zero", unparsable="zero")
    if rules.swapped == "ordered":
        others["swapped ends IoU 0"] = replace(rules, swapped="zero")
    if rules.duplicates != "counted":
        others["equal rows counted each"] = replace(rules, duplicates="counted")
    if rules.unscorable[0]:
        others["without the rows that no answer can hit"] = replace(rules, unscorable=(0, 0))
    return others
