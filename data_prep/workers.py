"""Worker processes with a hard time limit per item: a stuck or crashed one is killed, the rest goes on."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
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

TIMEOUT_SECONDS = 300.0
"""Time for one video file wherever one is decoded: 40 min of 1280x720 at 30 fps at the 240 frames/s measured on one
busy core."""
START_SECONDS = 600.0
"""A process that does not start within this time is an error of the machine, not of an item: it imports what its
function needs, which takes 5 s on an idle core and a minute on one that ten share."""
SEND_SECONDS = 60.0
"""A process that has begun to send its answer has this long to finish; one that is stopped half-way never would."""
CHILD = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = {path!r}; "
    "from data_prep.workers import serve; serve({pipe}, {imports})"
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
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    timeout: float,
    imports: Sequence[str] = (),
) -> Iterator[tuple[Item, Result | Failure]]:
    """Yield ``(item, result)`` in the order of completion, calling ``function`` in ``workers`` processes.

    ``function`` is a function of an importable module, or a `functools.partial` of one. An item that takes longer than
    ``timeout`` seconds or kills its process yields a `Failure`; the process is killed and a new one takes its
    place. ``imports`` are modules that the function imports when called: no item's time is spent on them. An
    exception of ``function`` is raised here, as is `WorkerStartError` if no process can be started.
    """
    # One thread per process waits for it, so each has its own time limit and no scheduling is needed.
    count = max(1, min(workers, len(items)))
    idle: SimpleQueue[Worker] = SimpleQueue()
    team = [Worker(function, imports) for _ in range(count)]
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


def call_apart(function: Callable[[Item], Result], item: Item, timeout: float | None) -> Result | Failure:
    """``function(item)`` in this process's one helper process, so that what crashes or hangs takes only that along.

    It is started at the first call, stays until this process ends and is replaced after a `Failure`; callers in several
    threads take turns. Raises what ``function`` raises, and `WorkerStartError`. ``timeout``: seconds; None: no limit.
    """
    with _helper_lock:
        _helper.learn(function)
        return _helper.call(item, timeout)


def forget_apart(function: Callable[[Any], Any]) -> None:
    """Let the helper process of `call_apart` drop a function and what it holds, if it still knows that one."""
    with _helper_lock:
        if _helper.function is function:
            _helper.learn(print)


def in_worker() -> bool:
    """Whether this process is a worker process, whose end costs its caller nothing but the item."""
    return _in_worker


class Worker:
    """A process that is started when needed, called through a pipe and replaced after a `Failure`."""

    def __init__(self, function: Callable[[Any], Any], imports: Sequence[str] = ()) -> None:
        self.function = function
        self.imports = tuple(imports)
        self.process: subprocess.Popen[bytes] | None = None
        self.pipe: Connection | None = None
        self.stopped = False

    def learn(self, function: Callable[[Any], Any]) -> None:
        """Call another function from now on, in the same process; raises `WorkerStartError` where it cannot."""
        if function is self.function:
            return
        self.function = function
        if self.pipe is not None:
            with suppress(WorkerStartError):  # a new process may know a module that this one cannot find
                self._teach(self.pipe)

    def call(self, item: Any, timeout: float | None) -> Any:
        """The result for ``item``, or a `Failure` after ``timeout`` seconds or where the process died.

        Raises what the function raised, and `WorkerStartError`.
        """
        pipe = self.pipe or self._start()
        try:
            pipe.send((False, item))
            if not pipe.poll(timeout):
                self._kill()
                return Failure(f"stopped after the limit of {timeout:g} s", timed_out=True)
            raised, value = self._receive(pipe)
        except (EOFError, OSError):
            code = self._kill()
            return Failure(f"the process died with exit code {code}")
        except BaseException:
            self._kill()  # interrupted: its answer must not be taken for that of the next item
            raise
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
        code = CHILD.format(path=sys.path, pipe=child.fileno(), imports=self.imports)
        with child:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.DEVNULL, pass_fds=[child.fileno()]
            )
        self.pipe = pipe
        if self.stopped:  # meanwhile, by another thread
            self._kill()
            raise WorkerStartError("the worker was stopped")
        self._teach(pipe)
        return pipe

    def _teach(self, pipe: Connection) -> None:
        """Send the function, for whose module's imports there is time before the first item's limit begins."""
        try:
            pipe.send((True, self.function))
            ready = pipe.poll(START_SECONDS) and pipe.recv()
        except (EOFError, OSError):
            ready = False
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self._kill()
            raise WorkerStartError(f"{self.function} cannot be sent to a worker process ({error})") from error
        except BaseException:
            self._kill()
            raise
        if not ready:
            raise WorkerStartError(f"a worker process did not start (exit code {self._kill()})")

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


def serve(handle: int, imports: Sequence[str] = ()) -> None:
    """The life of a worker process: take the function, announce that it is known, then answer each item.

    ``handle`` is the number of the pipe's file, ``imports`` are modules to import first. Ends when the other end of
    the pipe is closed.
    """
    global _in_worker
    _in_worker = True
    for module in imports:
        importlib.import_module(module)
    function: Any = None
    with Connection(handle) as pipe:
        try:
            while True:
                is_function, item = pipe.recv()
                if is_function:
                    function = item
                    pipe.send(True)
                    continue
                try:
                    answer = (False, function(item))
                except Exception as error:
                    answer = (True, error)
                pipe.send(answer)
        except (EOFError, BrokenPipeError):
            return


_in_worker = False
_helper = Worker(print)
_helper_lock = threading.Lock()


def _after_fork() -> None:
    """A forked process needs a helper of its own: two that share one pipe would read each other's answers."""
    global _helper, _helper_lock
    _helper, _helper_lock = Worker(print), threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
