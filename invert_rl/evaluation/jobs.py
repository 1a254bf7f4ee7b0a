"""What a model is asked: a task of a row. In batches of one task, shared out over ranks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_prep.rows import Row
from invert_rl.encoding import EncodedPrompt, PromptEncoder
from invert_rl.tasks import Task, messages, video_of
from invert_rl.video.errors import VideoError
from invert_rl.video.prefetch import Prefetcher

logger = logging.getLogger(__name__)

Job = tuple[Task, Row]


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is, and how they wait for each other."""

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None


def jobs_of(tasks: Sequence[Task], rows: Sequence[Row]) -> list[Job]:
    """What is to be asked: task by task, each of the rows that it can be asked of."""
    return [(task, row) for task in tasks for row in task.rows(rows)]


def key_of(job: Job) -> tuple[str, str]:
    """Task and row id."""
    return job[0].name, job[1].id


def batches_of(jobs: Sequence[Job], size: int) -> list[list[Job]]:
    """The jobs in batches, task by task: one batch asks one task."""
    batches = []
    for name in dict.fromkeys(task.name for task, _ in jobs):
        own = [job for job in jobs if job[0].name == name]
        batches += [own[first : first + size] for first in range(0, len(own), size)]
    return batches


def encode_jobs(
    encoder: PromptEncoder, clips: Prefetcher, jobs: Sequence[Job], upcoming: Sequence[Job] = ()
) -> tuple[list[int], list[EncodedPrompt]]:
    """The prompts of the jobs whose videos can be used, and the jobs' places; the others are told in a warning.

    ``upcoming`` are the next jobs, whose videos are decoded meanwhile.
    """
    clips.want(task.video(row) for task, row in [*jobs, *upcoming])
    places, prompts = [], []
    for place, (task, row) in enumerate(jobs):
        chat = messages(task, row)
        try:
            prompts.append(encoder(chat, clips.clip(video_of(chat))))
            places.append(place)
        except VideoError as error:
            logger.warning("row %s: %s", row.id, error)
    return places, prompts
