"""SIGTERM, SIGUSR1 and Ctrl-C: finish the step, write a checkpoint, say so in one line, end.

A scheduler that wants its machine back sends a signal and gives a while. Outside of training there is nothing to
finish, and the process ends at once; so it does at the second signal. A process whose launcher is killed takes that for
a signal of its own, so that nothing goes on training that nobody can stop.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

EXIT_CODES = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130}
"""What the process ends with: 143, by which a scheduler knows that the job is to be started again; 130 for Ctrl-C."""

TOGETHER = 0.3
"""Seconds within which signals count as one: launchers pass on what a scheduler or a terminal sends to all."""

LOOK = 0.5
"""Seconds between two looks at whether the launcher is still there."""

LAUNCHERS = ("accelerate", "torchrun", "torch.distributed", "deepspeed")
"""What the command line of a process that starts training holds, if it is a launcher."""


class Stopped(SystemExit):
    """The end of a process that was asked to stop; its ``code`` is that of `EXIT_CODES`."""

    def __init__(self, number: int) -> None:
        super().__init__(EXIT_CODES[signal.Signals(number)])


@dataclass
class Request:
    """What this process was asked."""

    number: int = 0
    """The signal; 0 for none."""
    steps: bool = False
    """Whether there is a step to finish."""


_request = Request()


@contextmanager
def stop_by_signals() -> Iterator[None]:
    """Inside, `SIGNALS` are such requests. Only for the main thread of a process that is about one run."""
    _request.number, _request.steps = 0, False
    before = {number: signal.signal(number, _first) for number in SIGNALS}
    read, write = os.pipe()
    os.set_blocking(write, False)
    woken = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(read, os.getppid(), done), name="signals", daemon=True)
    watch.start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(write)
        watch.join()
        os.close(read)


@contextmanager
def finishing_steps() -> Iterator[None]:
    """Inside, a request waits until `asked` is looked at, between two steps."""
    _request.steps = True
    try:
        yield
    finally:
        _request.steps = False


def asked() -> int:
    """The signal that asked this process to stop, or 0."""
    return _request.number


def say(text: str) -> None:
    """Write a line on stderr, where there still is one."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def name_of(number: int) -> str:
    """``SIGTERM``, for one."""
    return signal.Signals(number).name


def _first(number: int, frame: FrameType | None) -> None:
    """Python's handler of all `SIGNALS`; `_watch` deals with what comes after the first."""
    if _request.number:
        return
    _request.number = number
    if not _request.steps:
        say(f"stopped by {name_of(number)}: no step was under way, nothing is lost")
        raise Stopped(number)


def _watch(read: int, parent: int, done: threading.Event) -> None:
    """End the process at the second signal, also while the main thread is deep in a library, and orphans at all."""
    launched = _is_launcher(parent)
    first: float | None = None
    while not done.is_set():
        ready, _, _ = select.select([read], [], [], LOOK)
        if ready:
            numbers = [number for number in os.read(read, 64) if number in SIGNALS]
            if done.is_set() or not numbers:
                continue
            first = time.monotonic() if first is None else first
            if time.monotonic() - first > TOGETHER:
                say(f"ended by a second signal, {name_of(numbers[-1])}, in the middle of a step")
                os._exit(EXIT_CODES[signal.Signals(numbers[-1])])
        elif launched and first is None and os.getppid() != parent:
            first = time.monotonic()
            say("the launcher has ended: this process stops, too")
            os.kill(os.getpid(), signal.SIGTERM)


def _is_launcher(process: int) -> bool:
    with suppress(OSError):
        words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
        return any(name in words for name in LAUNCHERS)
    return False
