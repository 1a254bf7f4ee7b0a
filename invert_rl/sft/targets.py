"""The text that supervised fine-tuning teaches for a task and a row."""

from __future__ import annotations

from data_prep.rows import Row
from invert_rl.tasks import get_task, normalise_query


def target_text(task_name: str, row: Row) -> str:
    """The answer in the format of the rewards: the span, the whole query, its first verb, or the query.

    ``vd`` with the query as the answer is the paper's Invert-SFT (appendix D: ground-truth clip in, query out); the
    sentence in the think block is ours, as the paper shows none.
    """
    get_task(task_name)
    query = normalise_query(row.query)
    if task_name == "tvg":
        start, end = row.window
        answer = f"{start:.2f} to {end:.2f}"
    elif task_name == "ar":
        answer = row.meta["verbs"][0]
    else:
        answer = query
    return f"<think>The video shows: {query}</think> <answer>{answer}</answer>"
