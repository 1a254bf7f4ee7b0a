"""The short texts that a toy model is first taught to answer with, one per task."""

from __future__ import annotations

import numpy as np

from data_prep.errors import DataError
from data_prep.rows import Row, Window
from invert_rl.tasks import get_task, normalise_query
from invert_rl.toy.queries import all_bodies, plain_sentence
from invert_rl.toy.scene import GRID


def target_text(task_name: str, row: Row, rng: np.random.Generator, loosen: float = 0.0) -> str:
    """The answer to teach for one task and row, ``<think>…</think> <answer>…</answer>``.

    TVG names the verb that is asked for, goes through the clip's time line until that verb comes up (``open: 1.00 to
    3.50 walk, 5.00 to 8.00 open``) and answers the last span, with two decimals. Each verb is written with a space
    before it, so that it is the same token wherever it stands and a tiny model can see that two are equal. VC answers
    the whole sentence, AR the verb, VD the event in another wording than the query. ``loosen`` (seconds, TVG only)
    moves each border of the answer, but not of the thought, outwards by an independent uniform amount below it, clips
    it to the video and rounds it to 0.25 s: answers as generous as web annotations, so that a model taught with them
    finds the event but has tight borders left to learn from reward.
    Raises `DataError` for a row that is not of the toy world, `ValueError` for an unknown task.
    """
    task = get_task(task_name)
    if "events" not in row.meta:
        raise DataError(f"row {row.id!r} is not of the toy world: its meta lacks 'events'")
    verb, noun, colour = row.meta["events"][row.meta["event"]][0], row.meta["object"], row.meta["colour"]
    thought = plain_sentence(verb, noun)
    query = normalise_query(row.query)
    if task.name == "tvg":
        scanned = row.meta["events"][: row.meta["event"] + 1]
        thought = f" {verb}: " + ", ".join(f"{start:.2f} to {end:.2f} {name}" for name, start, end in scanned)
        start, end = loose_window(row.window, row.duration, loosen, rng)
        answer = f"{start:.2f} to {end:.2f}"
    elif task.name == "vc":
        answer = query
    elif task.name == "ar":
        answer = verb
    elif task.name == "vd":
        others = [body for body, _ in all_bodies(verb, noun, colour) if body != query]
        answer = others[int(rng.integers(len(others)))]
    else:
        raise ValueError(f"no toy answer is known for task {task.name!r}")
    return f"<think>{thought}</think> <answer>{answer}</answer>"


def loose_window(window: Window, duration: float, loosen: float, rng: np.random.Generator) -> Window:
    """``window`` (seconds) with each border up to ``loosen`` seconds further out, on a 0.25 s grid."""
    start, end = window
    if loosen < 0:
        raise ValueError(f"loosen must not be negative, found {loosen}")
    if loosen == 0:
        return start, end
    early, late = rng.uniform(0.0, loosen, size=2)
    start = max(0.0, start - float(early))
    end = min(duration, end + float(late))
    return round(start / GRID) * GRID, round(end / GRID) * GRID
