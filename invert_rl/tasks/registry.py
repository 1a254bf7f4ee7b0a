"""Which tasks there are, by name."""

from __future__ import annotations

import re

from invert_rl.tasks.base import Task

TASKS: dict[str, Task] = {}
"""Every known task, in the order of registration, as the default prompt preset asks it."""

_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)


def register_task(task: Task) -> Task:
    """Make a task known under its name, to every option that takes names of tasks; returns it.

    Raises `ValueError` for a name that is taken or that is no lower-case identifier, and `TypeError` for what is no
    `Task`. Registering the same task again changes nothing.
    """
    if not isinstance(task, Task):
        raise TypeError(f"register_task takes a Task, found {type(task).__name__}")
    if not _NAME.fullmatch(task.name):
        raise ValueError(f"task name {task.name!r} must be lower-case letters, digits and _, beginning with a letter")
    if TASKS.get(task.name, task) != task:
        raise ValueError(f"a task {task.name!r} is registered already; choose another name")
    return TASKS.setdefault(task.name, task)


def get_task(name: str) -> Task:
    """The task of that name; raises `ValueError` with the known names."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; the tasks are {', '.join(TASKS)}; --plugins brings in your own")
    return TASKS[name]
