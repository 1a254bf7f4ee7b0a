"""Predictions of a model on a data file: batched, over ranks, and resumable after a kill.

Each rank appends whole lines to a file of its own beside the output (``p.jsonl.part0``) and the main process joins
them at the end. What a killed run wrote is read again, so that nothing is asked twice and nothing is lost.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_json
from data_prep.progress import progress
from data_prep.rows import Row
from invert_rl.evaluation.predictions import (
    MISSING_VIDEO,
    Prediction,
    predictions_sidecar,
    read_predictions,
    write_predictions,
)
from invert_rl.evaluation.protocol import Protocol
from invert_rl.evaluation.scoring import rows_of_task
from invert_rl.tasks import Task

Job = tuple[Task, Row]
Answer = Callable[[Sequence[Job], Sequence[Job]], list[Prediction]]
"""Answers the first jobs; the second are those of the next batch, whose videos can be decoded meanwhile."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is, and how they wait for each other."""

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None


def jobs_of(tasks: Sequence[Task], rows: Sequence[Row]) -> list[Job]:
    """What is to be asked: task by task, each of the rows that it can be asked of."""
    return [(task, row) for task in tasks for row in rows_of_task(task.name, rows)]


def generate_predictions(
    jobs: Sequence[Job],
    answer: Answer,
    output: Path,
    protocol: Protocol,
    batch_size: int,
    unusable: dict[str, str] | None = None,
    ranks: Ranks | None = None,
) -> list[Prediction]:
    """Predictions of all jobs, in their order, also written to ``output`` with the protocol beside it.

    ``unusable`` are ids of rows that are not asked because their video cannot be used; they get ``missing_video``.
    Raises `DataError` if the files hold the beginning of an evaluation by another protocol.
    """
    ranks = ranks or Ranks()
    output.parent.mkdir(parents=True, exist_ok=True)
    if ranks.index == 0:
        check_protocol(output, protocol)
        for path in _parts(output):
            _cut_last_line(path)  # a kill can leave half a line behind
    ranks.wait()
    done = _read_done(jobs, output)
    # By the place in the list of all jobs, so that ranks agree whatever each of them finds done.
    mine = [job for job in jobs[ranks.index :: ranks.count] if _key(job) not in done]
    part = output.with_name(f"{output.name}.part{ranks.index}")
    batches = [batch for task in _tasks(mine) for batch in _batches(task, mine, batch_size)]
    with part.open("a", encoding="utf-8") as lines:
        for number, batch in enumerate(progress(batches, "evaluate", total=len(batches)), start=1):
            left_out = [
                Prediction(row.id, task.name, status=MISSING_VIDEO) for task, row in batch if _out(row, unusable)
            ]
            asked = [(task, row) for task, row in batch if not _out(row, unusable)]
            upcoming = [(task, row) for task, row in chain(*batches[number : number + 1]) if not _out(row, unusable)]
            predictions = left_out + (answer(asked, upcoming) if asked else [])
            lines.write("".join(json.dumps(p.record(), ensure_ascii=False) + "\n" for p in predictions))
            lines.flush()
    ranks.wait()
    done = _read_done(jobs, output)
    missing = [_key(job) for job in jobs if _key(job) not in done]
    if missing:
        raise DataError(f"{output}: {len(missing)} answers are missing, such as {missing[0]}; run the command again")
    predictions = [done[_key(job)] for job in jobs]
    ranks.wait()
    if ranks.index == 0:
        write_predictions(predictions, output)
        for path in _parts(output):
            path.unlink()
    ranks.wait()
    return predictions


def check_protocol(output: Path, protocol: Protocol) -> None:
    """Write the protocol beside ``output``; raises `DataError` if another evaluation's answers are there."""
    sidecar = predictions_sidecar(output)
    begun = output.exists() or bool(_parts(output))
    if begun and not sidecar.exists():
        raise DataError(f"{output}: is there already and is not of this command; choose another --output")
    if begun:
        old = read_json(sidecar)
        for name in old.keys() | protocol.keys():
            if name != "versions" and old.get(name) != json.loads(json.dumps(protocol.get(name))):
                raise DataError(
                    f"{output}: holds answers of another evaluation, its {name} was {old.get(name)} and is now "
                    f"{protocol.get(name)}; choose another --output or delete {output.name}* and {sidecar.name}"
                )
        return
    with atomic_write(sidecar) as out:
        json.dump(protocol, out, indent=1)
        out.write("\n")


def _read_done(jobs: Sequence[Job], output: Path) -> dict[tuple[str, str], Prediction]:
    """Answers that are there already, in the finished file or in a part, other ranks' unfinished lines left aside."""
    rows = list({row.id: row for _, row in jobs}.values())
    done: dict[tuple[str, str], Prediction] = {}
    for path in [output] * output.exists() + _parts(output):
        done.update({(p.task, p.id): p for p in read_predictions(path, rows, unfinished=True)})
    return done


def _cut_last_line(path: Path) -> None:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        os.truncate(path, whole)


def _parts(output: Path) -> list[Path]:
    return sorted(output.parent.glob(f"{output.name}.part*"))


def _key(job: Job) -> tuple[str, str]:
    return job[0].name, job[1].id


def _out(row: Row, unusable: dict[str, str] | None) -> bool:
    return unusable is not None and row.id in unusable


def _tasks(jobs: Sequence[Job]) -> list[Task]:
    return list({task.name: task for task, _ in jobs}.values())


def _batches(task: Task, jobs: Sequence[Job], size: int) -> list[list[Job]]:
    """The task's jobs in batches: one batch asks one task."""
    own = [job for job in jobs if job[0].name == task.name]
    return [own[first : first + size] for first in range(0, len(own), size)]
