"""Generation that is killed goes on where it was, over ranks too, and refuses to mix protocols."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.evaluation.generate import generate_predictions
from invert_rl.evaluation.jobs import Job, Ranks, in_turn, jobs_of
from invert_rl.evaluation.predictions import Prediction
from invert_rl.tasks import TASKS

ROWS = [
    Row(f"r{n}", "v.mp4", 60.0, "a person opens the door", ((10.0, 20.0),), meta={"verbs": ["open"]}) for n in range(10)
]
JOBS = jobs_of([TASKS["tvg"], TASKS["ar"]], ROWS)
PROTOCOL = {"prompt": {"name": "think"}, "versions": {"torch": "1"}}

SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_evaluation_generate import JOBS, PROTOCOL, recorder
from invert_rl.evaluation.generate import generate_predictions
from invert_rl.evaluation.jobs import in_turn
answers = in_turn(recorder(Path({log!r}), seconds=0.1))
generate_predictions(JOBS, answers, Path({output!r}), PROTOCOL, 2)
"""


def recorder(log: Path, seconds: float = 0.0):
    """A model that notes each question it answers."""

    def answer(jobs: Sequence[Job], upcoming: Sequence[Job]) -> list[Prediction]:
        time.sleep(seconds)
        with log.open("a") as out:
            out.writelines(f"{task.name} {row.id}\n" for task, row in jobs)
        return [Prediction(row.id, task.name, text=f"{task.name} of {row.id}") for task, row in jobs]

    return answer


def keys(predictions: Sequence[Prediction]) -> list[tuple[str, str]]:
    return [(p.task, p.id) for p in predictions]


WANTED = [(task.name, row.id) for task, row in JOBS]


def test_killed_and_restarted(tmp_path: Path) -> None:
    log, output = tmp_path / "asked.txt", tmp_path / "p.jsonl"
    script = SLOW.format(folder=str(Path(__file__).parent), log=str(log), output=str(output))
    process = subprocess.Popen([sys.executable, "-c", script])
    part = tmp_path / "p.jsonl.part0"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.read_text().count("\n") >= 6):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    saved = part.read_text().count("\n")
    assert saved < len(JOBS) and not output.exists()
    with part.open("a") as out:
        out.write('{"id": "r9", "task": "ar", "te')  # a kill in the middle of a line
    log.unlink()
    predictions = generate_predictions(JOBS, in_turn(recorder(log)), output, PROTOCOL, 2)
    assert keys(predictions) == WANTED
    asked = log.read_text().splitlines()
    assert len(asked) == len(set(asked)) == len(JOBS) - saved  # nothing is asked again
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["task"], line["id"]) for line in lines] == WANTED
    assert all(line["text"] == f"{line['task']} of {line['id']}" for line in lines)
    assert not list(tmp_path.glob("*.part*"))


def test_finished_evaluation_asks_nothing(tmp_path: Path) -> None:
    log, output = tmp_path / "asked.txt", tmp_path / "p.jsonl"
    generate_predictions(JOBS, in_turn(recorder(log)), output, PROTOCOL, 4)
    content = output.read_text()
    log.unlink()
    generate_predictions(JOBS, in_turn(recorder(log)), output, {**PROTOCOL, "versions": {"torch": "2"}}, 4)
    assert not log.exists() and output.read_text() == content


def test_batches_ask_one_task_and_skip_unusable_videos(tmp_path: Path) -> None:
    sizes, told = [], []

    def answer(jobs: Sequence[Job], upcoming: Sequence[Job]) -> list[Prediction]:
        assert not told or list(jobs) == told[-1]  # what the last call was told to come
        told.append(list(upcoming))
        sizes.append((jobs[0][0].name, len(jobs)))
        assert len({task.name for task, _ in jobs}) == 1
        return recorder(tmp_path / "asked.txt")(jobs, upcoming)

    predictions = generate_predictions(JOBS, in_turn(answer), tmp_path / "p.jsonl", PROTOCOL, 4, {"r0": "broken"})
    assert sizes == [("tvg", 4), ("tvg", 4), ("tvg", 1), ("ar", 4), ("ar", 4), ("ar", 1)]
    assert told[-1] == []
    assert keys(predictions) == WANTED
    assert [p.status for p in predictions].count("missing_video") == 2


@pytest.mark.parametrize("left", ["p.jsonl", "p.jsonl.part0"])
def test_other_protocol_is_refused(tmp_path: Path, left: str) -> None:
    output = tmp_path / "p.jsonl"
    generate_predictions(JOBS, in_turn(recorder(tmp_path / "asked.txt")), output, PROTOCOL, 4)
    output.rename(tmp_path / left)
    with pytest.raises(DataError, match=r"begun with another prompt: \{'name': 'think'\}, now it is"):
        generate_predictions(
            JOBS, in_turn(recorder(tmp_path / "x")), output, {**PROTOCOL, "prompt": {"name": "no_think"}}, 4
        )


def test_foreign_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("mine\n")
    with pytest.raises(DataError, match="is not of this command"):
        generate_predictions(JOBS, in_turn(recorder(tmp_path / "x")), tmp_path / "p.jsonl", PROTOCOL, 4)
    assert (tmp_path / "p.jsonl").read_text() == "mine\n"


def run_rank(index: int, count: int, barrier, folder: Path) -> None:
    ranks = Ranks(index, count, barrier.wait)
    predictions = generate_predictions(
        JOBS, in_turn(recorder(folder / f"asked{index}.txt", 0.01)), folder / "p.jsonl", PROTOCOL, 2, ranks=ranks
    )
    assert keys(predictions) == WANTED


def test_ranks_share_the_work_and_a_restart_may_have_fewer(tmp_path: Path) -> None:
    # what three ranks of a killed run left: rank 1's share is there, the others' are not
    part = tmp_path / "p.jsonl.part1"
    done = recorder(tmp_path / "old.txt")(JOBS[1::3], [])
    part.write_text("".join(json.dumps(p.record()) + "\n" for p in done))
    (tmp_path / "p.protocol.json").write_text(json.dumps(PROTOCOL))
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [context.Process(target=run_rank, args=(index, 2, barrier, tmp_path)) for index in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    asked = [(tmp_path / f"asked{index}.txt").read_text().splitlines() for index in range(2)]
    assert all(asked)
    everything = asked[0] + asked[1]
    assert len(everything) == len(set(everything)) == len(JOBS) - len(done)
    assert [json.loads(line)["id"] for line in (tmp_path / "p.jsonl").read_text().splitlines()] == [
        k[1] for k in WANTED
    ]
