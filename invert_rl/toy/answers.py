"""The short texts that a toy model is first taught to answer with, one per task."""

from __future__ import annotations

import numpy as np

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.tasks import Task, normalise_query
from invert_rl.toy.queries import all_bodies


def target_text(task: Task, row: Row, rng: np.random.Generator) -> str:
    """The completion to teach for a task, as a preset words it, and a row of the toy world.

    Answers are the task's own, but that of VD: the event in another wording than the query. Where the preset has a
    thought, none holds a span: that of TVG names the verb that is asked for and the clip's verbs in order until that
    one comes up (`` open: walk, wave, open``), those of the others name the verb. Each verb is written with a space
    before it, so that it is the same token wherever it stands and a tiny model can see that two are equal.
    Raises `DataError` for a row that is not of the toy world or that the task has no answer for.
    """
    if "events" not in row.meta:
        raise DataError(f"row {row.id!r} is not of the toy world: its meta lacks 'events'")
    verb, noun, colour = row.meta["events"][row.meta["event"]][0], row.meta["object"], row.meta["colour"]
    answer, thought = task.answer(row), f" {verb}"
    if task.name == "vd":
        others = [body for body, _ in all_bodies(verb, noun, colour) if body != normalise_query(row.query)]
        answer = others[int(rng.integers(len(others)))]
    if task.names_spans:
        scanned = row.meta["events"][: row.meta["event"] + 1]
        thought += ":" + ",".join(f" {name}" for name, _, _ in scanned)
    if answer is None:
        raise DataError(f"row {row.id!r}: task {task.name!r} has no answer to teach")
    return task.completion(answer, thought)
