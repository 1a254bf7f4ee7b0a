"""The tables of a report: before and after, by verb, naming and grounding, similar verbs, the time of a step."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from invert_rl.report.samples import Answer, Sample
from invert_rl.tasks import TASKS
from invert_rl.tasks.tvg import TVG

MOST_CONFUSED = 20
MATRIX_VERBS = 12
"""The confusion matrix shows at most this many verbs."""


@dataclass(frozen=True)
class Change:
    """One number before and after; None where it is not known."""

    before: float | None
    after: float | None

    @property
    def difference(self) -> float | None:
        """After minus before."""
        return None if self.before is None or self.after is None else self.after - self.before


def metric_changes(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Change]:
    """Each metric of a run's summary before and after, percent; the number of rows is left out.

    Summaries with an mAP hold fractions, the others percent.
    """
    names = [name for name in dict.fromkeys([*before, *after]) if name not in ("n", "seconds")]
    scale = 100 if "average_mAP" in names else 1
    told = [{name: scale * value for name, value in metrics.items()} for metrics in (before, after)]
    return {name: Change(told[0].get(name), told[1].get(name)) for name in names}


@dataclass(frozen=True)
class VerbRow:
    """How the samples of one verb are answered: percent, by column (mIoU, R1@0.5, VC, AR, VD)."""

    verb: str
    rows: int
    columns: dict[str, Change]


def verb_table(samples: Sequence[Sample]) -> list[VerbRow]:
    """One row per verb of the queries, most frequent first."""
    by_verb: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        for verb in dict.fromkeys(sample.verbs):
            by_verb[verb].append(sample)
    tasks = [task for task in TASKS if any(sample.task == task for sample in samples)]
    table = []
    for verb, mine in by_verb.items():
        columns: dict[str, Change] = {}
        for task in tasks:
            of_task = [sample for sample in mine if sample.task == task]
            if TASKS[task].names_spans:
                columns["mIoU"] = Change(*(_mean(_values(of_task, when)) for when in ("before", "after")))
                columns["R1@0.5"] = Change(
                    *(_mean([float(v >= 0.5) for v in _values(of_task, when)]) for when in ("before", "after"))
                )
            else:
                columns[TASKS[task].label] = Change(*(_mean(_values(of_task, when)) for when in ("before", "after")))
        table.append(VerbRow(verb, len({sample.id for sample in mine}), columns))
    return sorted(table, key=lambda row: (-row.rows, row.verb))


@dataclass(frozen=True)
class Confusions:
    """Which verb was answered for which, from VC and AR answers with one verb to queries with one."""

    verbs: list[str]
    """Rows and columns of the matrix."""
    matrix: list[list[int]]
    """Answers of the trained model (of the start checkpoint if there are no others): asked by answered."""
    worst: list[tuple[str, str, int | None, int | None]]
    """Asked, answered, how often before, how often after; most frequent after training first."""


def confusions(samples: Sequence[Sample]) -> Confusions:
    """The verbs that are taken for each other, such as open and close."""
    counts = {when: Counter(_verb_pairs(samples, when)) for when in ("before", "after")}
    known = {when: any(_answer(sample, when) for sample in samples) for when in counts}
    shown = counts["after"] if known["after"] else counts["before"]
    wrong: Counter[tuple[str, str]] = Counter()
    for pairs in counts.values():
        for (asked, answered), count in pairs.items():
            if asked != answered:
                wrong[asked, answered] += count
    order = sorted(wrong, key=lambda pair: (-shown[pair], -wrong[pair], pair))
    worst = [
        (
            *pair,
            counts["before"][pair] if known["before"] else None,
            counts["after"][pair] if known["after"] else None,
        )
        for pair in order[:MOST_CONFUSED]
    ]
    asked_often = Counter(asked for asked, _ in shown.elements())
    in_error = dict.fromkeys(verb for pair in order for verb in pair if verb in asked_often)
    verbs = sorted(list(in_error)[:MATRIX_VERBS])
    return Confusions(verbs, [[shown[asked, answered] for answered in verbs] for asked in verbs], worst)


def _verb_pairs(samples: Sequence[Sample], when: str) -> Iterable[tuple[str, str]]:
    for sample in samples:
        answer = _answer(sample, when)
        words = TASKS[sample.task].needs_verbs and not TASKS[sample.task].names_spans
        if words and answer and len(sample.verbs) == 1 and len(answer.verbs) == 1:
            yield sample.verbs[0], answer.verbs[0]


@dataclass(frozen=True)
class NamingRow:
    """Grounding on the rows whose action a task names rightly, and on the others: mean IoU in percent."""

    task: str
    """Label of the task that names the action."""
    when: str
    """"before" or "after"."""
    right: int
    right_iou: float
    wrong: int
    wrong_iou: float
    half: float
    """Of the 95 % interval of the difference, rows taken as independent (Welch, normal)."""

    @property
    def difference(self) -> float:
        """By how much grounding is better where the action is named rightly, points."""
        return self.right_iou - self.wrong_iou


def naming_table(samples: Sequence[Sample]) -> list[NamingRow]:
    """Whether grounding is worse where a task does not name the action, as the paper has it (Fig. 1).

    One row per task that names actions (VC, AR, VD) and time; an action is named rightly where that answer's value
    is 1. Tasks with fewer than two rows on either side are left out.
    """
    table = []
    for when in ("before", "after"):
        grounded = {
            sample.id: answer.value
            for sample in samples
            if sample.task == TVG.name and (answer := _answer(sample, when)) is not None
        }
        for task in (task for task in TASKS.values() if task.needs_verbs and not task.names_spans):
            named: dict[bool, list[float]] = {True: [], False: []}
            for sample in samples:
                answer = _answer(sample, when)
                if sample.task == task.name and answer is not None and sample.id in grounded:
                    named[answer.value >= 1].append(100 * grounded[sample.id])
            right, wrong = named[True], named[False]
            if min(len(right), len(wrong)) > 1:
                error = math.sqrt(sum(statistics.variance(values) / len(values) for values in (right, wrong)))
                means = statistics.fmean(right), statistics.fmean(wrong)
                table.append(NamingRow(task.label, when, len(right), means[0], len(wrong), means[1], 1.96 * error))
    return table


def step_times(log: Sequence[Mapping[str, float]]) -> tuple[list[str], dict[str, dict[str, float]]]:
    """Seconds of each part of a step, by task: names of the parts, and the mean of each part for each task.

    Only log lines in which a single task came up tell its times; all lines together are under "all tasks".
    """
    parts = list(dict.fromkeys(name for record in log for name in record if name.startswith("time/")))
    if any("step_time" in record for record in log):
        parts.append("step_time")
    by_task: dict[str, list[Mapping[str, float]]] = defaultdict(list)
    for record in log:
        tasks = [task for task in TASKS if f"{task}/reward" in record]
        if len(tasks) == 1:
            by_task[tasks[0]].append(record)
    groups = {TASKS[task].label: by_task[task] for task in TASKS if by_task[task]}
    table = {}
    for name, records in {**groups, "all tasks": list(log)}.items():
        means = {part: _mean([record[part] for record in records if part in record], 1) for part in parts}
        table[name] = {part.removeprefix("time/"): mean for part, mean in means.items() if mean is not None}
    return [part.removeprefix("time/") for part in parts], table


def _values(samples: Iterable[Sample], when: str) -> list[float]:
    return [answer.value for sample in samples if (answer := _answer(sample, when)) is not None]


def _answer(sample: Sample, when: str) -> Answer | None:
    return sample.before if when == "before" else sample.after


def _mean(values: Sequence[float], scale: float = 100) -> float | None:
    """The mean, in percent unless another scale is given; None of nothing."""
    return scale * sum(values) / len(values) if values else None
