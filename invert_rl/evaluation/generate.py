"""Predictions of a model on a data file: batched, over ranks, and resumable after a kill.

Each rank appends whole lines to a file of its own beside the output (``p.jsonl.part0``) and the main process joins
them at the end. What a killed run wrote is read again, so that nothing is asked twice and nothing is lost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from data_prep.errors import DataError
from data_prep.progress import progress
from invert_rl.evaluation.jobs import Job, Ranks, Share, batches_of, key_of
from invert_rl.evaluation.parts import begin, cut_last_line, part_of, parts_of
from invert_rl.evaluation.predictions import (
    MISSING_VIDEO,
    Prediction,
    predictions_sidecar,
    read_predictions,
    write_predictions,
)
from invert_rl.evaluation.protocols.fields import Protocol


def generate_predictions(
    jobs: Sequence[Job],
    answers: Share,
    output: Path,
    protocol: Protocol,
    batch_size: int,
    unusable: dict[str, str] | None = None,
    ranks: Ranks | None = None,
) -> list[Prediction]:
    """Predictions of all jobs, in their order, also written to ``output`` with the protocol beside it.

    ``answers`` gives the batches' predictions in any order. ``unusable`` are ids of rows that are not asked because
    their video cannot be used; they get ``missing_video``. Raises `DataError` if the files hold the beginning of an
    evaluation by another protocol.
    """
    ranks = ranks or Ranks()
    if ranks.index == 0:
        begin(output, predictions_sidecar(output), protocol)
        for path in parts_of(output):
            cut_last_line(path)
    ranks.wait()
    done = _read_done(jobs, output)
    # By the place in the list of all jobs, so that ranks agree whatever each of them finds done.
    mine = [job for job in jobs[ranks.index :: ranks.count] if key_of(job) not in done]
    part = part_of(output, ranks.index)
    out = unusable or {}
    batches = batches_of([(task, row) for task, row in mine if row.id not in out], batch_size)
    with part.open("a", encoding="utf-8") as lines:
        _write(lines, [Prediction(row.id, task.name, status=MISSING_VIDEO) for task, row in mine if row.id in out])
        for _, predictions in progress(answers(batches), "evaluate", total=len(batches)):
            _write(lines, predictions)
    ranks.wait()
    done = _read_done(jobs, output)
    missing = [key_of(job) for job in jobs if key_of(job) not in done]
    if missing:
        raise DataError(f"{output}: {len(missing)} answers are missing, such as {missing[0]}; run the command again")
    predictions = [done[key_of(job)] for job in jobs]
    ranks.wait()
    if ranks.index == 0:
        write_predictions(predictions, output)
        for path in parts_of(output):
            path.unlink()
    ranks.wait()
    return predictions


def _read_done(jobs: Sequence[Job], output: Path) -> dict[tuple[str, str], Prediction]:
    """Answers that are there already, in the finished file or in a part, other ranks' unfinished lines left aside."""
    rows = list({row.id: row for _, row in jobs}.values())
    done: dict[tuple[str, str], Prediction] = {}
    for path in [output] * output.exists() + parts_of(output):
        done.update({(p.task, p.id): p for p in read_predictions(path, rows, unfinished=True)})
    return done


def _write(lines: IO[str], predictions: Sequence[Prediction]) -> None:
    lines.write("".join(json.dumps(p.record(), ensure_ascii=False) + "\n" for p in predictions))
    lines.flush()
