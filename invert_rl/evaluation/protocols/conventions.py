"""What a result would be by the field's other practices, and whether a prompt gives test answers away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from data_prep.rows import Row
from invert_rl.evaluation.predictions import Prediction
from invert_rl.evaluation.protocols.rules import Rules, annotated_windows, changes_of
from invert_rl.tasks import Task
from invert_rl.tasks.tvg import Grounding


def conventions_of(
    predictions: Sequence[Prediction], rows: Sequence[Row], strict: bool, tasks: Mapping[str, Task]
) -> dict[str, dict[str, float]]:
    """Metrics of the grounding answers by each other practice, named by what is other.

    With a named protocol the practices of `changes_of`; without one the windows as annotated, where clipping changed
    some. Empty where nothing differs or nothing was grounded.
    """
    asked = [name for name in dict.fromkeys(prediction.task for prediction in predictions) if tasks[name].forward]
    task = tasks[asked[0]] if asked else None
    if not isinstance(task, Grounding):
        return {}
    answers = {prediction.id: prediction for prediction in predictions if prediction.task == asked[0]}
    if task.rules is not None:
        others = changes_of(task.rules, rows)
    elif any(annotated_windows(row) != row.windows for row in rows):
        rules = Rules(comparison=">" if strict else ">=")
        others = {"windows annotated": replace(rules, measure="set") if task.windows == "all" else rules}
    else:
        others = {}
    found = {}
    for name, rules in others.items():
        used = replace(task, rules=rules).rows(rows)
        found[name] = rules.metrics([answers.get(row.id) for row in used], used)
    return found


def leaked_rows(tasks: Sequence[Task], rows: Sequence[Row]) -> list[str]:
    """Ids of the rows whose query and both times of a window stand in the prompt of one of ``tasks``, unfilled.

    lmms-eval's prompt for Charades-STA holds row 1 of its test set with its answer.
    """
    leaked = []
    for task in tasks:
        prompt = task.prompt.lower()
        for row in rows:
            query = row.query.strip().lower().removesuffix(".").rstrip()
            if query in prompt and any(
                f"{start:g}" in prompt and f"{end:g}" in prompt for start, end in annotated_windows(row)
            ):
                leaked.append(row.id)
    return list(dict.fromkeys(leaked))
