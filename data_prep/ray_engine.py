"""``--engine ray``: work shared out over the workers of a Ray cluster, on as many machines as it has.

A worker is a process of the cluster (a Ray actor) that first builds what does the work, such as a model, and then gets
one item after the other. A result comes once, whatever dies meanwhile: the item of a dead worker is given to another,
and the cluster is asked for a new one. Order is that of completion; files are written by the command alone, so that
what makes the local engine resumable does so here.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import socket
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from data_prep.errors import DataError
from data_prep.workers import Failure, Worker

Item = TypeVar("Item")
Result = TypeVar("Result")

ENGINES = ("local", "ray")
ATTEMPTS = 3
"""Workers that may die over one item, or before they have begun, until that is an error."""

Build = Callable[[], Callable[[Any, Any], Any]]
"""Makes, in the worker, what is called with an item and the one that comes next (None: not known)."""


def add_engine_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare ``--engine``."""
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="local",
        help="ray: over the machines of a Ray cluster (that of RAY_ADDRESS, else this machine's), which must all have "
        "this library and see the same files; needs the extra `ray`; default: %(default)s",
    )


def run_each_on_ray(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int | None,
    timeout: float,
    imports: Sequence[str] = (),
    folders: Sequence[Path] = (),
) -> Iterator[tuple[Item, Result | Failure]]:
    """`data_prep.workers.run_each` on a Ray cluster; ``workers`` None: one for each of its cores.

    Each worker calls ``function`` in a process of its own beside it, which is what a crash or the time limit ends.
    """
    if not items:
        return
    build = functools.partial(_apart, function, timeout, tuple(imports))
    with RayTeam(build, min(workers or cluster("CPU"), len(items)), folders=folders) as team:
        for place, result in team.each(items):
            yield items[place], result


def cluster(resource: str) -> int:
    """How many ``CPU`` or ``GPU`` the cluster has, or how many machines (``node``); it is connected to, or started."""
    ray = _connected()
    if resource == "node":
        return sum(node["Alive"] for node in ray.nodes())
    return int(ray.cluster_resources().get(resource, 0))


class RayTeam:
    """Workers of a Ray cluster, let go when the ``with`` block ends.

    ``build`` is a function of an importable module, or a `functools.partial` of one; ``gpus`` are those of each worker.
    ``folders`` are looked for on each worker's machine first: one that is not there is an error, not a folder without
    videos. Raises `DataError` where Ray is not installed, where a folder is missing, or where workers die again and
    again; what ``build`` or a call raises is raised here.
    """

    def __init__(self, build: Build, workers: int, gpus: int = 0, folders: Sequence[Path] = ()) -> None:
        self.ray = _connected()
        self.actors = self.ray.remote(num_cpus=1, num_gpus=gpus)(_Actor)
        self.work = functools.partial(_begin, build, [str(folder) for folder in folders])
        self.busy: dict[Any, tuple[Any, int | None]] = {}
        """Worker and place of its item by what is waited for; None: it is being built."""
        self.idle: list[Any] = []
        self.next_of: dict[Any, int] = {}
        """The place that a busy worker will go on with."""
        self.failed_starts = 0
        self.about: Any = None
        """What the work says of itself: its attribute ``about``, once a worker is built."""
        for _ in range(workers):
            self._hire()

    def __enter__(self) -> RayTeam:
        self._stdout = contextlib.redirect_stdout(sys.stderr)  # Ray tells there of dead workers: results go to stdout
        self._stdout.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for actor in [*self.idle, *(actor for actor, _ in self.busy.values())]:
            self.ray.kill(actor)
        if _connections:
            _connections.clear()
            self.ray.shutdown()
        self._stdout.__exit__(None, None, None)

    def wait_for_about(self) -> Any:
        """`about`, after the first worker has been built."""
        while not self.idle:
            self._receive(Counter(), deque())
        return self.about

    def each(self, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield ``(place, result)`` for each item, in the order of completion."""
        todo = deque(range(len(items)))
        deaths: Counter[int] = Counter()
        left = len(items)
        while left:
            while self.idle and (todo or self.next_of):
                self._assign(self.idle.pop(), items, todo)
            found = self._receive(deaths, todo)
            if found is not None:
                left -= 1
                yield found

    def _assign(self, actor: Any, items: Sequence[Any], todo: deque[int]) -> None:
        place = self.next_of.pop(actor, None)
        if place is None:  # nothing left: take what another would have gone on with
            place = todo.popleft() if todo else self.next_of.popitem()[1]
        if todo:
            self.next_of[actor] = todo.popleft()
        upcoming = items[self.next_of[actor]] if actor in self.next_of else None
        self.busy[actor.call.remote(items[place], upcoming)] = actor, place

    def _receive(self, deaths: Counter[int], todo: deque[int]) -> tuple[int, Any] | None:
        """Wait for one worker: its result; None if it has just been built, or died and was replaced."""
        ray = self.ray
        done = ray.wait(list(self.busy), num_returns=1)[0][0]
        actor, place = self.busy.pop(done)
        try:
            result = ray.get(done)
        except ray.exceptions.RayActorError as error:
            self._replace(actor, place, deaths, todo, str(error).strip().splitlines()[0])
            return None
        except ray.exceptions.RayTaskError as error:
            ray.kill(actor)
            raise error.cause from error
        self.idle.append(actor)
        if place is None:
            self.about = result
            return None
        return place, result

    def _replace(self, actor: Any, place: int | None, deaths: Counter[int], todo: deque[int], why: str) -> None:
        if actor in self.next_of:
            todo.appendleft(self.next_of.pop(actor))
        if place is None:
            self.failed_starts += 1
            if self.failed_starts >= ATTEMPTS:
                raise DataError(f"--engine ray: {ATTEMPTS} workers died before they had begun: {why}")
        else:
            deaths[place] += 1
            if deaths[place] >= ATTEMPTS:
                raise DataError(
                    f"--engine ray: {ATTEMPTS} workers died over the same item, number {place} of this run: {why}"
                )
            todo.appendleft(place)
        self._hire()

    def _hire(self) -> None:
        actor = self.actors.remote()
        self.busy[actor.build.remote(self.work)] = actor, None


class _Actor:
    """What runs in a worker; it is built by a call and not with the actor, so that its errors are told as raised."""

    def __init__(self) -> None:
        self.work: Callable[[Any, Any], Any] | None = None

    def build(self, work: Build) -> Any:
        self.work = work()
        return getattr(self.work, "about", None)

    def call(self, item: Any, upcoming: Any) -> Any:
        assert self.work is not None
        return self.work(item, upcoming)


def _begin(build: Build, folders: Sequence[str]) -> Callable[[Any, Any], Any]:
    for folder in folders:
        if not os.path.isdir(folder):
            raise DataError(
                f"{folder}: not on the machine {socket.gethostname()}; all machines of the cluster must see the same "
                "files, under the same names"
            )
    return build()


def _apart(function: Callable[[Item], Result], timeout: float, imports: Sequence[str]) -> Callable[[Item, Any], Any]:
    worker = Worker(function, imports)
    return lambda item, upcoming: worker.call(item, timeout)


_connections: list[ModuleType] = []
"""Ray, where this process was connected to its cluster by `_connected` and not by the program around it."""


def _connected() -> ModuleType:
    """Ray, connected to its cluster; raises `DataError` where it is not installed or has none."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports over the network
    try:
        import ray
    except ModuleNotFoundError as error:
        raise DataError("--engine ray: Ray is not installed; pip install 'invert-rl[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(include_dashboard=False, logging_level=logging.WARNING)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise DataError(f"--engine ray: no cluster ({error})") from error
        _connections.append(ray)
    return ray
