"""The four tasks made from one annotation: TVG and its inversions VC, AR and VD (paper, sections 2 and 2.2).

TVG sees the whole video and answers with a span; the inverted tasks see the ground-truth segment and answer
with words of the query.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from data_prep.rows import Row
from invert_rl.video.ref import VideoRef

THINK = "Output your thought process within the <think> </think> tags. Then provide "


@dataclass(frozen=True)
class Task:
    """What one task asks and which part of the video it shows."""

    name: str
    """Short name used in configs, logs and columns: tvg, vc, ar or vd."""
    prompt: str
    """The user's text; ``{query}`` and ``{masked_query}`` are filled from the row."""
    crop: bool
    """Whether the task sees only the ground-truth segment."""
    needs_verbs: bool
    """Whether a row without a verb in its query cannot be used."""


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "tvg",
            'To accurately pinpoint the event "{query}" in the video, determine the precise time period of the '
            "event.\n" + THINK + "the start and end times (in seconds, precise to two decimal places) in the format "
            '"start time to end time" within the <answer> </answer> tags. For example: "12.54 to 17.83".',
            crop=False,
            needs_verbs=False,
        ),
        Task(
            "vc",
            'Add a verb for the event "{masked_query}" based on the video.\n' + THINK + "the complete sentence "
            "within the <answer> </answer> tags.",
            crop=True,
            needs_verbs=True,
        ),
        Task(
            "ar",
            "Use a verb to describe the event based on the video.\n" + THINK + "the single verb within the <answer> "
            "</answer> tags.",
            crop=True,
            needs_verbs=True,
        ),
        Task(
            "vd",
            "Describe what people have done based on the video.\n" + THINK + "the description within the <answer> "
            "</answer> tags.",
            crop=True,
            needs_verbs=True,
        ),
    )
}
INVERTED_TASKS = ("vc", "ar", "vd")


def get_task(name: str) -> Task:
    """The task of that name; raises `ValueError` with the known names."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; the tasks are {', '.join(TASKS)}")
    return TASKS[name]


def normalise_query(query: str) -> str:
    """Lower-case a query and drop its final period, as the field's prompts do."""
    return query.strip().lower().removesuffix(".").rstrip()


def prompt_text(task: Task, row: Row) -> str:
    """The user's text of ``task`` for ``row``; VC needs ``row.meta["masked_query"]``."""
    return task.prompt.format(
        query=normalise_query(row.query), masked_query=normalise_query(row.meta.get("masked_query", ""))
    )


def video_ref(task: Task, row: Row) -> VideoRef:
    """The part of the row's video that ``task`` shows: everything, or the ground-truth segment (seconds)."""
    if not task.crop:
        return VideoRef(row.video)
    start, end = row.window
    return VideoRef(row.video, start, end)


def messages(task: Task, row: Row) -> list[dict[str, Any]]:
    """The chat of ``task`` for ``row``: the video as a light reference, then the text (plain data, no pixels)."""
    content = [
        {"type": "video", "video": asdict(video_ref(task, row))},
        {"type": "text", "text": prompt_text(task, row)},
    ]
    return [{"role": "user", "content": content}]


def video_of(chat: list[dict[str, Any]]) -> VideoRef:
    """The video reference that `messages` put into a chat."""
    return VideoRef(**chat[0]["content"][0]["video"])
