"""Worker processes: results, time limit, crashes, exceptions."""

from __future__ import annotations

import os
import sys
import time

import pytest

from data_prep.errors import DataError
from data_prep.ray_engine import run_each_on_ray
from data_prep.workers import Failure, run_each


def behave(item: str) -> str:
    """Module-level, so that a spawned process can import it."""
    if item == "sleep":
        time.sleep(3600)
    if item == "crash":
        os.abort()
    if item == "raise":
        raise KeyError(item)
    return f"{item} {os.getpid()}"


def test_a_stuck_and_a_crashing_item_do_not_stop_the_others() -> None:
    items = ["a", "sleep", "b", "crash", "c", "d"]
    began = time.monotonic()
    outcomes = dict(run_each(behave, items, workers=2, timeout=2.0))
    assert time.monotonic() - began < 60
    assert outcomes.keys() == set(items)
    assert outcomes["sleep"] == Failure("stopped after the limit of 2 s", timed_out=True)
    crash = outcomes["crash"]
    assert isinstance(crash, Failure) and not crash.timed_out and "exit code -6" in crash.reason
    done = [str(outcomes[name]).split() for name in "abcd"]
    assert [name for name, _ in done] == list("abcd")
    pids = {int(pid) for _, pid in done}
    assert os.getpid() not in pids
    assert not any(_alive(pid) for pid in pids)


def test_processes_are_reused() -> None:
    outcomes = dict(run_each(behave, [str(number) for number in range(20)], workers=1, timeout=30))
    assert len({str(value).split()[1] for value in outcomes.values()}) == 1


def test_an_exception_of_the_function_is_raised() -> None:
    with pytest.raises(KeyError):
        list(run_each(behave, ["raise"], workers=1, timeout=30))


def test_stopping_early_kills_a_stuck_process() -> None:
    outcomes = run_each(behave, ["a", "sleep"], workers=2, timeout=3600)
    assert next(outcomes)[0] == "a"
    began = time.monotonic()
    outcomes.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 20


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(DataError, match=r"--engine ray: Ray is not installed; pip install 'invert-rl\[ray\]'"):
        list(run_each_on_ray(behave, ["a"], 1, 30.0))
