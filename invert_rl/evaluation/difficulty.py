"""How hard each row is for a model: the rewards of several sampled answers, measured before training.

Rows that the start model always or never solves have no variance in their groups and teach GRPO nothing. The ratings
go into the rows' ``meta``, where ``difficulty_range`` of the GRPO recipe finds them (`invert_rl.curriculum`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, ProcessorMixin

from data_prep.errors import DataError
from data_prep.files import decode_json
from data_prep.progress import progress
from data_prep.rows import Row, split_windows
from invert_rl.encoding import EncodedPrompt, PromptEncoder, PromptLimit
from invert_rl.evaluation.jobs import Job, Share, batches_of, encode_jobs, key_of
from invert_rl.evaluation.parts import cut_last_line, part_of, parts_of
from invert_rl.grpo.rollout import generate_completions
from invert_rl.models import decoding_config
from invert_rl.schedule import RATING, generator
from invert_rl.tasks import Task
from invert_rl.tasks.rewards import RewardWeights, content_scores
from invert_rl.video.prefetch import Prefetcher

SampleAnswers = Callable[[Sequence[EncodedPrompt], Sequence[Job]], list[list[list[int]]]]
"""Token ids of several sampled answers to each prompt; the jobs are what each prompt asks."""


def sample_with(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    generations: int = 8,
    temperature: float = 1.0,
    max_new_tokens: int = 1024,
    seed: int = 0,
) -> SampleAnswers:
    """Answers of ``model`` by transformers.

    The random numbers of an answer depend on ``seed``, task, row id and the answer's number alone.
    """
    config = decoding_config(
        model.eval(), processor, max_new_tokens, do_sample=True, temperature=temperature, top_k=0, top_p=1.0
    )

    def sample(prompts: Sequence[EncodedPrompt], jobs: Sequence[Job]) -> list[list[list[int]]]:
        index = [number for number in range(len(prompts)) for _ in range(generations)]
        numbers = np.stack(
            [
                generator(seed, RATING, *stream_of(job), answer).random(max_new_tokens, np.float32)
                for job in jobs
                for answer in range(generations)
            ]
        )
        ids = generate_completions(
            model, prompts, index, config, config.pad_token_id, config.eos_token_id, torch.from_numpy(numbers)
        )
        return [ids[first : first + generations] for first in range(0, len(ids), generations)]

    return sample


def stream_of(job: Job) -> tuple[int, int]:
    """What tells the random numbers of a task and a row from those of others."""
    task, row = job
    return task.stream, zlib.crc32(row.id.encode())


class Rater:
    """Samples answers to a batch of jobs of one task and scores them by the rewards of the task's content.

    ``limit`` is how long a prompt may be, ``weights`` are the rewards by task, ``options`` what they are told. A rating
    depends on neither batches nor ranks nor restarts, as the random numbers of ``sample`` do not.
    """

    def __init__(
        self,
        sample: SampleAnswers,
        processor: ProcessorMixin,
        clips: Prefetcher,
        limit: PromptLimit,
        weights: RewardWeights,
        options: Mapping[str, Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.sample = sample
        self.tokenizer = processor.tokenizer
        self.encoder = PromptEncoder(processor, chat_template_kwargs)
        self.limit = limit
        self.clips = clips
        self.weights = weights
        self.options = dict(options or {})

    def __call__(self, jobs: Sequence[Job], upcoming: Sequence[Job] = ()) -> list[list[float]]:
        """The rewards in [0, 1] of each job's answers, in their order; none where video or prompt cannot be used."""
        asked = encode_jobs(self.encoder, self.clips, self.limit, jobs, upcoming)
        rewards: list[list[float]] = [[] for _ in jobs]
        if not asked.prompts:
            return rewards
        answers = self.sample(asked.prompts, [jobs[place] for place in asked.places])
        for place, ids in zip(asked.places, answers, strict=True):
            texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            rewards[place] = self._score(*jobs[place], texts)
        return rewards

    def _score(self, task: Task, row: Row, texts: Sequence[str]) -> list[float]:
        return content_scores(task, texts, [row] * len(texts), self.weights[task.name], self.options)


def rate_rows(
    jobs: Sequence[Job], samples: Share, output: Path, batch_size: int, rank: int = 0, ranks: int = 1
) -> None:
    """Append the rewards of this rank's jobs to ``output.part<rank>``, batch by batch, leaving out what is there.

    ``samples`` gives the rewards of the sampled answers to each job, in any order of the batches.
    Which settings they belong to is `invert_rl.evaluation.parts.begin`'s business.
    """
    done = read_ratings(output)
    mine = [job for job in jobs[rank::ranks] if key_of(job) not in done]
    part = part_of(output, rank)
    cut_last_line(part)
    batches = batches_of(mine, batch_size)
    with part.open("a", encoding="utf-8") as lines:
        for batch, sampled in progress(samples(batches), "rate", total=len(batches)):
            records = [
                {"task": task.name, "id": row.id, "rewards": [round(reward, 6) for reward in rewards]}
                for (task, row), rewards in zip(batch, sampled, strict=True)
            ]
            lines.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
            lines.flush()


def read_ratings(output: Path) -> dict[tuple[str, str], list[float]]:
    """Rewards by task and row id in the parts beside ``output``; a half line at the end of a part is left out."""
    ratings: dict[tuple[str, str], list[float]] = {}
    for path in parts_of(output):
        if path.stat().st_size == 0:
            continue
        whole = path.read_bytes().decode("utf-8", errors="replace").split("\n")[:-1]
        for number, line in enumerate(whole, start=1):
            record = decode_json(line, str(path), number)
            try:
                ratings[record["task"], record["id"]] = [float(reward) for reward in record["rewards"]]
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{path}:{number}: not a rating ({error!r}); delete the line") from error
    return ratings


def with_ratings(
    rows: Sequence[Row],
    ratings: Mapping[tuple[str, str], Sequence[float]],
    threshold: float,
    tasks: Iterable[str],
) -> list[Row]:
    """The rows with ``mean_reward`` and ``solve_rate`` by task in ``meta``.

    A row with several windows has the ratings of its parts for tasks that are asked once per window. ``solve_rate`` is
    the share of answers with a reward of at least ``threshold``. A task without rewards, because the
    video could not be used or the query has no verb, is left out.
    """
    rated = []
    tasks = list(tasks)
    for row in rows:
        parts = [row.id, *(part.id for part in split_windows([row]) if part.id != row.id)]
        mine = {name: [value for part in parts for value in ratings.get((name, part), ())] for name in tasks}
        meta = {
            "mean_reward": {name: round(fmean(values), 6) for name, values in mine.items() if values},
            "solve_rate": {
                name: sum(value >= threshold for value in values) / len(values)
                for name, values in mine.items()
                if values
            },
        }
        rated.append(replace(row, meta={**row.meta, **meta}))
    return rated
