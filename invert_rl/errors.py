"""Errors that a person can mend, as one sentence each; all others keep their traceback."""

from __future__ import annotations

import errno
import importlib.util
import re

from data_prep.errors import DataError
from rewards.errors import RewardError

EXTRAS = {
    "vllm": "vllm",
    "wandb": "wandb",
    "h5py": "tal",
    "gradio": "demo",
    "deepspeed": "deepspeed",
    "matplotlib": "plots",
}
"""The extra of this package that brings a module."""

SENTENCES = ("CheckpointError", "ServerError", "ServerLostError", "EngineMismatchError")
"""Errors of modules that import torch, by name, whose message is for the user."""

FULL_DISK = re.compile(
    r"No space left on device|Disk quota exceeded|PytorchStreamWriter failed writing file|"
    r"inline_container\.cc:\d+\] \. unexpected pos \d+ vs \d+"
)
"""What libraries that write files themselves say where the disk is full."""

ABSENT = re.compile(r"No module named '(\w+)|(\w+) (?:is not available|is not installed|to be installed)")


def explain(error: BaseException) -> str | None:
    """What was wrong and what to do, in one line; None for what is not the user's to mend.

    Asked for are errors of this library about its input, of the file system, and of modules that are not installed.
    """
    if isinstance(error, DataError | RewardError) or type(error).__name__ in SENTENCES:
        return _one_line(str(error))
    text = _one_line(str(error))
    if isinstance(error, OSError) and error.errno is not None:
        return _of_file_system(error)
    if FULL_DISK.search(text):
        return f"the disk is full: free some space or choose another --output_dir ({text[:200]})"
    absent = ABSENT.search(text)
    if absent and (isinstance(error, ImportError) or (absent[2] or "").lower() in EXTRAS):
        return _of_module((absent[1] or absent[2]).lower(), text)
    return None


def need_module(module: str, option: str, instead: str = "leave the option out") -> None:
    """Raise `DataError` where ``module``, which ``option`` wants, is not installed; ``instead`` what else to do."""
    if importlib.util.find_spec(module) is None:
        raise DataError(f"{option}: {_of_module(module, f'{module} is not installed')}; or {instead}")


def _of_file_system(error: OSError) -> str:
    place = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    where = f"{place}: " if place else ""
    reason = error.strerror or str(error)
    remedies = {
        errno.ENOSPC: "free some space, or choose another folder",
        errno.EDQUOT: "free some space, or choose another folder",
        errno.EROFS: "choose a folder that can be written, such as with --output_dir, --output or XDG_CACHE_HOME",
        errno.EACCES: "give the permission, or choose another folder",
        errno.EPERM: "give the permission, or choose another folder",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
    }
    remedy = remedies.get(error.errno or 0)
    return f"{where}{reason}{f'; {remedy}' if remedy else ''}"


def _of_module(module: str, text: str) -> str:
    if module in EXTRAS:
        return f"{module} is not installed: pip install -e '.[{EXTRAS[module]}]'"
    return f"{text}: install it beside invert-rl"


def _one_line(text: str) -> str:
    return " ".join(text.split())
