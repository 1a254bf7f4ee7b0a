"""The chat of a task: the video as a light reference, and the text (plain data, no pixels)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from invert_rl.video.ref import VideoRef

if TYPE_CHECKING:
    from data_prep.rows import Row
    from invert_rl.tasks.base import Task


def messages(task: Task, row: Row, video: VideoRef | None = None) -> list[dict[str, Any]]:
    """The chat of ``task`` for ``row``, video first unless the task's preset puts the text first.

    ``video`` is what is shown; default: what the task shows of the row.
    """
    task = task.worded_for(row)
    shown = asdict(task.video(row) if video is None else video)
    content = [{"type": "video", "video": shown}, {"type": "text", "text": task.text(row)}]
    chat = [{"role": "user", "content": content if task.video_first else content[::-1]}]
    if task.system:
        chat.insert(0, {"role": "system", "content": [{"type": "text", "text": task.system}]})
    return chat


def video_of(chat: list[dict[str, Any]]) -> VideoRef:
    """The video reference that `messages` put into a chat."""
    return next(VideoRef(**part["video"]) for part in chat[-1]["content"] if part["type"] == "video")
