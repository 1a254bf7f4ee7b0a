"""The samples of a report: one per task and row, with the answers before and after side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from data_prep.rows import Row, Window
from invert_rl.evaluation.predictions import OK, Prediction
from invert_rl.tasks import TASKS, Task
from rewards.answers import TAG, answer_or_bare_text
from rewards.format import matches_format
from rewards.pipelines import VerbPipeline


@dataclass
class Answer:
    """One answer as the page shows it."""

    thought: str
    answer: str
    status: str
    windows: list[Window]
    value: float
    """IoU for TVG, the verb reward for the other tasks, in [0, 1]."""
    parts: dict[str, float]
    """The parts of the reward by name."""
    verbs: list[str] = field(default_factory=list)
    """Lemmas of the verbs of the answer, for the verb tasks."""


@dataclass
class Sample:
    """One row asked for one task."""

    id: str
    task: str
    label: str
    spans: bool
    """Whether the answer names spans."""
    segment: bool
    """Whether the model saw the ground-truth segment only."""
    query: str
    verbs: list[str]
    video: str
    duration: float
    truth: list[Window]
    before: Answer | None
    after: Answer | None
    others: dict[str, Answer] = field(default_factory=dict)
    """What other runs answered after their training, by the run's name."""

    @property
    def change(self) -> float:
        """By how much the value rose since the start checkpoint; 0 where one of the two is not known."""
        return self.after.value - self.before.value if self.before and self.after else 0.0

    def record(self) -> dict[str, Any]:
        """The sample as JSON for the page."""
        return asdict(self)


def make_samples(
    rows: Sequence[Row],
    before: Sequence[Prediction],
    after: Sequence[Prediction],
    pipeline: VerbPipeline | None,
    tasks: Mapping[str, Task] = TASKS,
) -> list[Sample]:
    """A sample for each row and task that was asked before or after, in the order of tasks and rows.

    ``pipeline`` finds the verbs of the answers, None where no verb task was asked; ``tasks`` are as they were asked.
    """
    samples: list[Sample] = []
    for name, task in tasks.items():
        old = {p.id: p for p in before if p.task == name}
        new = {p.id: p for p in after if p.task == name}
        used = [row for row in task.rows(rows) if row.id in old or row.id in new]
        columns = [_answers(task, used, answers, pipeline) for answers in (old, new)]
        samples += [
            Sample(
                id=row.id,
                task=name,
                label=task.label,
                spans=task.names_spans,
                segment=task.segment,
                query=row.query,
                verbs=list(row.meta.get("verbs", [])),
                video=row.video,
                duration=row.duration,
                truth=[(start, end) for start, end in row.windows],
                before=first,
                after=second,
            )
            for row, first, second in zip(used, *columns, strict=True)
        ]
    return samples


def add_answers(samples: Sequence[Sample], name: str, others: Sequence[Sample]) -> int:
    """Put the answers of another run beside those of ``samples``, by task and id; returns how many there were.

    What counts is its answer after training, or before where it has no other.
    """
    known = {(sample.task, sample.id): sample.after or sample.before for sample in others}
    found = 0
    for sample in samples:
        answer = known.get((sample.task, sample.id))
        if answer is not None:
            sample.others[name] = answer
            found += 1
    return found


def _answers(
    task: Task, rows: Sequence[Row], predictions: dict[str, Prediction], pipeline: VerbPipeline | None
) -> list[Answer | None]:
    found = [predictions.get(row.id) for row in rows]
    values = task.values(found, rows)
    verbs: list[list[str]] = [[] for _ in rows]
    if task.needs_verbs and not task.names_spans and pipeline is not None:
        verbs = pipeline.verbs([answer_or_bare_text(p.text) if p else "" for p in found])
    part = "IoU" if task.names_spans else "content"
    return [
        None
        if p is None
        else Answer(
            thought=thought_of(p.text),
            answer=answer_or_bare_text(p.text),
            status=p.status if p.status != OK or p.windows or task.read(p.text, row) == [] else "unparsable",
            windows=[(start, end) for start, end in p.windows],
            value=value,
            parts={part: value, "format": float(matches_format(p.text, task.answer_format))},
            verbs=lemmas,
        )
        for row, p, value, lemmas in zip(rows, found, values, verbs, strict=True)
    ]


def thought_of(text: str) -> str:
    """What an answer thinks: the text before its answer block, without tags."""
    opened = text.lower().rfind("<answer>")
    thought = text[:opened] if opened >= 0 else ""
    if not thought and "</think>" in text.lower():
        thought = text[: text.lower().rfind("</think>")]
    return TAG.sub(" ", thought).strip()
