"""Who asks the model in ``evaluate`` and ``rate-difficulty``: this process, or the workers of a Ray cluster."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.ray_engine import RayTeam, cluster
from data_prep.rows import Row
from invert_rl.evaluation.jobs import Answer, Job, Share, in_turn
from invert_rl.plugins import load_plugins
from invert_rl.tasks import Task
from invert_rl.video.prefetch import Prefetcher

Named = list[tuple[str, Row]]
"""Jobs whose task travels by its name: each worker words it itself."""


@dataclass
class Workplace:
    """A model that is ready: in this process, or built by a worker, which is told of jobs by their tasks' names."""

    answer: Answer
    clips: Prefetcher
    """Where ``answer`` gets its videos from."""
    tasks: Mapping[str, Task]
    about: Any = None

    def __call__(self, jobs: Named, upcoming: Named | None) -> list[Any]:
        """What becomes of the jobs, one thing each."""
        return self.answer(self._jobs(jobs), self._jobs(upcoming or []))

    def _jobs(self, named: Named) -> list[Job]:
        return [(self.tasks[name], row) for name, row in named]


@contextmanager
def at_work(build: Callable[[argparse.Namespace], Workplace], args: argparse.Namespace) -> Iterator[tuple[Share, Any]]:
    """How the engine shares batches out, and the workplace's ``about``.

    ``build`` makes a workplace of the command's arguments: here, or with ``--engine ray`` on each worker of the
    cluster, for which it must be a function of an importable module.
    """
    if args.engine == "local":
        workplace = build(args)
        with workplace.clips:
            yield in_turn(workplace.answer), workplace.about
        return
    gpus = 0 if args.cpu else min(1, cluster("GPU"))
    workers = args.workers or cluster("GPU" if gpus else "node")
    folders = [args.videos.absolute(), *([Path(args.model).absolute()] if os.path.isdir(args.model) else [])]
    with RayTeam(functools.partial(_built, build, _shared(args)), workers, gpus, folders) as team:
        about = team.wait_for_about()

        def share(batches: Sequence[list[Job]]) -> Iterator[tuple[list[Job], list[Any]]]:
            named = [[(task.name, row) for task, row in batch] for batch in batches]
            for place, results in team.each(named):
                yield batches[place], results

        yield share, about


def _built(build: Callable[[argparse.Namespace], Workplace], args: argparse.Namespace) -> Workplace:
    load_plugins(args.plugins)
    return build(args)


def _shared(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments with the names of files as workers in other folders find them."""
    return argparse.Namespace(**{name: _absolute(value) for name, value in vars(args).items() if name != "run"})


def _absolute(value: Any) -> Any:
    if isinstance(value, Path):
        return value.absolute()
    if isinstance(value, str) and os.path.exists(value):
        return os.path.abspath(value)
    if isinstance(value, list):
        return [_absolute(entry) for entry in value]
    return value
