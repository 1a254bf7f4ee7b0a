"""Worker processes with a hard time limit per item: a stuck or crashed one is killed, the rest goes on."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

START_SECONDS = 120.0
"""A process that does not start within this time is an error of the machine, not of an item."""


@dataclass(frozen=True)
class Failure:
    """An item without a result: its process ran past the limit (``timed_out``) or died."""

    reason: str
    timed_out: bool = False


def run_each(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, timeout: float
) -> Iterator[tuple[Item, Result | Failure]]:
    """Yield ``(item, result)`` in the order of completion, calling ``function`` in ``workers`` processes.

    ``function`` is a module-level function, or a `functools.partial` of one. An item that takes longer than
    ``timeout`` seconds or kills its process yields a `Failure`; the process is killed and a new one takes its
    place. An exception of ``function`` is raised here, as is `RuntimeError` if no process can be started.
    """
    # One thread per process waits for it, so each has its own time limit and no scheduling is needed.
    count = max(1, min(workers, len(items)))
    idle: SimpleQueue[_Worker] = SimpleQueue()
    team = [_Worker(function) for _ in range(count)]
    for worker in team:
        idle.put(worker)

    def call(item: Item) -> Result | Failure:
        worker = idle.get()
        try:
            return worker.call(item, timeout)
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(count)
    try:
        futures = {pool.submit(call, item): item for item in items}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in team:
            worker.stop()


class _Worker:
    """A process that is started when needed, called through a pipe and replaced after a `Failure`."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.process: multiprocessing.process.BaseProcess | None = None
        self.pipe: Connection | None = None
        self.stopped = False

    def call(self, item: Any, timeout: float) -> Any:
        """The result for ``item``, or a `Failure`; raises what the function raised."""
        pipe = self.pipe or self._start()
        try:
            pipe.send(item)
            if not pipe.poll(timeout):
                self._kill()
                return Failure(f"stopped after the limit of {timeout:g} s", timed_out=True)
            raised, value = pipe.recv()
        except (EOFError, OSError):
            code = self._kill()
            return Failure(f"the process died with exit code {code}")
        if raised:
            raise value
        return value

    def stop(self) -> None:
        """Kill the process and start no other."""
        self.stopped = True
        self._kill()

    def _start(self) -> Connection:
        if self.stopped:
            raise RuntimeError("the worker was stopped")
        # A spawned process shares no lock or thread with this one, so killing it cannot leave one held.
        context = multiprocessing.get_context("spawn")
        pipe, child = context.Pipe()
        process = context.Process(target=_serve, args=(self.function, child), daemon=True)
        process.start()
        child.close()
        self.process, self.pipe = process, pipe
        try:
            started = pipe.poll(START_SECONDS) and pipe.recv()
        except EOFError:
            started = False
        if not started:
            raise RuntimeError(f"a worker process did not start (exit code {self._kill()})")
        return pipe

    def _kill(self) -> int | None:
        process, pipe = self.process, self.pipe
        self.process = self.pipe = None
        if process is None or pipe is None:
            return None
        # A process that died by itself has its own exit code; wait for it before sending the signal.
        process.join(timeout=0.1)
        process.kill()
        # One that the kernel holds in a dead network mount cannot be waited for: leave it behind.
        process.join(timeout=5.0)
        pipe.close()
        return process.exitcode


def _serve(function: Callable[[Any], Any], pipe: Connection) -> None:
    """The life of a worker process: announce the start, then answer each item."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe.send(True)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            answer = (False, function(item))
        except Exception as error:
            answer = (True, error)
        pipe.send(answer)
