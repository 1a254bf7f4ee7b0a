"""What a model is asked: a task of a row. In batches of one task, shared out over ranks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from data_prep.rows import Row
from invert_rl.encoding import EncodedPrompt, PromptEncoder, PromptLimit
from invert_rl.tasks import Task, messages, video_of
from invert_rl.video.errors import PromptTooLong, VideoError
from invert_rl.video.prefetch import Prefetcher

logger = logging.getLogger(__name__)

Job = tuple[Task, Row]
Answer = Callable[[Sequence[Job], Sequence[Job]], list[Any]]
"""What becomes of the first jobs, one thing each; the second are the next batch, whose videos can be decoded
meanwhile."""
Share = Callable[[Sequence[list[Job]]], Iterator[tuple[list[Job], list[Any]]]]
"""Yields each batch with what became of its jobs, in any order."""


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


def in_turn(answer: Answer) -> Share:
    """Batch after batch in this process."""

    def share(batches: Sequence[list[Job]]) -> Iterator[tuple[list[Job], list[Any]]]:
        for number, batch in enumerate(batches, start=1):
            yield batch, answer(batch, list(chain(*batches[number : number + 1])))

    return share


@dataclass
class EncodedJobs:
    """What became of some jobs, each known by its place among them; those in neither list have no usable video."""

    places: list[int] = field(default_factory=list)
    """Of the jobs that can be asked."""
    prompts: list[EncodedPrompt] = field(default_factory=list)
    """Theirs, in the same order."""
    too_long: list[int] = field(default_factory=list)
    """Of the jobs whose prompt does not fit."""


def encode_jobs(
    encoder: PromptEncoder, clips: Prefetcher, limit: PromptLimit, jobs: Sequence[Job], upcoming: Sequence[Job] = ()
) -> EncodedJobs:
    """The prompts of the jobs that can be asked; the others are told in a warning, with where their row was read.

    ``upcoming`` are the next jobs, whose videos are decoded meanwhile.
    """
    clips.want(task.video(row) for task, row in [*jobs, *upcoming])
    found = EncodedJobs()
    for place, (task, row) in enumerate(jobs):
        chat = messages(task, row)
        try:
            prompt = encoder(chat, clips.clip(video_of(chat)))
            limit.check(len(prompt.input_ids), row, task.name)
        except PromptTooLong as error:
            logger.warning("left out: %s", error)
            found.too_long.append(place)
        except VideoError as error:
            logger.warning("row %s%s: %s", row.id, f" ({row.place})" if row.place else "", error)
        else:
            found.prompts.append(prompt)
            found.places.append(place)
    return found
