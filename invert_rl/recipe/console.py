"""How a recipe speaks to a person: quiet libraries, standard output of one process, errors as sentences."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import PartialState
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from data_prep.errors import DataError
from invert_rl.errors import explain
from invert_rl.loading import CheckpointError
from invert_rl.stopping import say, stop_by_signals
from rewards.errors import RewardError


def quiet_libraries() -> None:
    """Keep progress bars of single files and notices about renamed settings of other libraries off the console."""
    disable_progress_bar()
    for module in ("transformers", "trl"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=rf"{module}\..*")


def console() -> Console:
    """Where recipes write for people: standard output of the main process."""
    return Console(quiet=not PartialState().is_main_process, soft_wrap=True, highlight=False)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Around a recipe: an error that the user can mend is one line on stderr and exit code 1 (`invert_rl.errors`), and
    signals stop the run (`invert_rl.stopping`)."""
    with stop_by_signals():
        try:
            yield
        except Exception as error:
            text = explain(error)
            if text is None:
                raise
            rank = int(os.environ.get("RANK", 0))
            say(f"{f'[rank {rank}] ' if rank else ''}error: {text}")
            raise SystemExit(1) from None


@contextmanager
def setting_errors() -> Iterator[None]:
    """Turn what other libraries say against a setting, such as LoRA targets that a model has not, into `DataError`."""
    try:
        yield
    except (DataError, RewardError, CheckpointError):
        raise
    except (ValueError, ImportError, NotImplementedError) as error:
        raise DataError(f"settings: {error}") from error
