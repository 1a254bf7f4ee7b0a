"""Worker processes with a hard time limit per item: a stuck or crashed one is killed, the rest goes on."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

START_SECONDS = 120.0
"""A process that does not start within this time is an error of the machine, not of an item."""
SEND_SECONDS = 60.0
"""A process that has begun to send its answer has this long to finish; one that is stopped half-way never would."""
CHILD = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = {path!r}; "
    "from data_prep.workers import serve; serve({pipe})"
)
"""What a worker process runs. It imports what the function needs and not the program that started it, as
`multiprocessing` would: that may be a training script with a minute of imports and no ``if __name__`` guard."""


class WorkerStartError(RuntimeError):
    """A worker process could not be started."""


@dataclass(frozen=True)
class Failure:
    """An item without a result: its process ran past the limit (``timed_out``) or died."""

    reason: str
    timed_out: bool = False


def run_each(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, timeout: float
) -> Iterator[tuple[Item, Result | Failure]]:
    """Yield ``(item, result)`` in the order of completion, calling ``function`` in ``workers`` processes.

    ``function`` is a function of an importable module, or a `functools.partial` of one. An item that takes longer than
    ``timeout`` seconds or kills its process yields a `Failure`; the process is killed and a new one takes its
    place. An exception of ``function`` is raised here, as is `WorkerStartError` if no process can be started.
    """
    # One thread per process waits for it, so each has its own time limit and no scheduling is needed.
    count = max(1, min(workers, len(items)))
    idle: SimpleQueue[Worker] = SimpleQueue()
    team = [Worker(function) for _ in range(count)]
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


class Worker:
    """A process that is started when needed, called through a pipe and replaced after a `Failure`."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.process: subprocess.Popen[bytes] | None = None
        self.pipe: Connection | None = None
        self.stopped = False

    def call(self, item: Any, timeout: float) -> Any:
        """The result for ``item``, or a `Failure` after ``timeout`` seconds or where the process died.

        Raises what the function raised, and `WorkerStartError`.
        """
        pipe = self.pipe or self._start()
        try:
            pipe.send(item)
            if not pipe.poll(timeout):
                self._kill()
                return Failure(f"stopped after the limit of {timeout:g} s", timed_out=True)
            raised, value = self._receive(pipe)
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

    def _receive(self, pipe: Connection) -> Any:
        assert self.process is not None
        limit = threading.Timer(SEND_SECONDS, self.process.kill)
        limit.start()
        try:
            return pipe.recv()
        finally:
            limit.cancel()

    def _start(self) -> Connection:
        if self.stopped:
            raise WorkerStartError("the worker was stopped")
        # A new program shares no lock or thread with this one, so killing it cannot leave one held.
        pipe, child = multiprocessing.Pipe()
        code = CHILD.format(path=sys.path, pipe=child.fileno())
        with child:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.DEVNULL, pass_fds=[child.fileno()]
            )
        self.pipe = pipe
        if self.stopped:  # meanwhile, by another thread
            self._kill()
            raise WorkerStartError("the worker was stopped")
        try:
            pipe.send(self.function)
            started = pipe.poll(START_SECONDS) and pipe.recv()
        except (EOFError, OSError):
            started = False
        if not started:
            raise WorkerStartError(f"a worker process did not start (exit code {self._kill()})")
        return pipe

    def _kill(self) -> int | None:
        process, pipe = self.process, self.pipe
        self.process = self.pipe = None
        if process is None or pipe is None:
            return None
        # A process that died by itself has its own exit code; wait for it before sending the signal.
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
        process.kill()
        # One that the kernel holds in a dead network mount cannot be waited for: leave it behind.
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5.0)
        pipe.close()
        return process.returncode


def serve(handle: int) -> None:
    """The life of a worker process: take the function, announce the start, then answer each item.

    ``handle`` is the number of the pipe's file. Ends when the other end of the pipe is closed.
    """
    with Connection(handle) as pipe:
        try:
            function = pipe.recv()
            pipe.send(True)
            while True:
                item = pipe.recv()
                try:
                    answer = (False, function(item))
                except Exception as error:
                    answer = (True, error)
                pipe.send(answer)
        except (EOFError, BrokenPipeError):
            return
