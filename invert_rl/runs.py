"""What every recipe shares: its run folder, its log, its summary, and errors that a person can act on."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils.logging import disable_progress_bar
from trl import ModelConfig, TrlParser

from data_prep.errors import DataError
from data_prep.files import atomic_write
from invert_rl.errors import explain, need_module
from invert_rl.loading import CheckpointError
from invert_rl.one_language import did_you_mean, known_name, translated
from invert_rl.options import check_model_options
from invert_rl.plugins import load_plugins, plugins_of_arguments
from invert_rl.recipe_files import config_path
from invert_rl.run_folder import SUMMARY
from invert_rl.stopping import say, stop_by_signals
from rewards.errors import RewardError


def cache_folder() -> Path:
    """Where generated data is kept between runs: ``$XDG_CACHE_HOME/invert-rl``, or ``~/.cache/invert-rl``.

    Raises `DataError` where there is no home folder.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "invert-rl"
    except RuntimeError as error:
        raise DataError("no home folder: set XDG_CACHE_HOME to a folder for what is generated") from error


def quiet_libraries() -> None:
    """Keep progress bars of single files and notices about renamed settings of other libraries off the console."""
    disable_progress_bar()
    for module in ("transformers", "trl"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=rf"{module}\..*")


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


def config_arguments(arguments: Sequence[str], default: Path) -> list[str]:
    """Command-line arguments for `TrlParser`, with ``--config default`` in front unless a config is named."""
    normal: list[str] = []
    for argument in arguments:
        normal.extend(["--config", argument[len("--config=") :]] if argument.startswith("--config=") else [argument])
    if "--config" not in normal and not {"-h", "--help"} & set(normal):
        normal = ["--config", str(default), *normal]
    if "--config" in normal[:-1]:
        place = normal.index("--config") + 1
        normal[place] = config_path(normal[place])
    return normal


class RecipeParser(TrlParser):
    """TRL's parser, which knows other names of an option (`invert_rl.one_language`) and guesses at misspelt ones."""

    def names(self) -> set[str]:
        """Names of all options."""
        return {action.dest for action in self._actions}

    def set_defaults_with_config(self, **kwargs: Any) -> list[str]:
        """As TRL's, with the names that the fields have; raises `DataError` for a key that is none of them."""
        names = self.names()
        renamed: dict[str, Any] = {}
        for key, value in kwargs.items():
            name = known_name(key, names)
            if name is None:
                raise DataError(f"settings: unknown key {key!r} in the config{did_you_mean(key, names)}")
            if name in renamed:
                raise DataError(f"settings: {key!r} in the config is another name of {name!r}, which is there as well")
            renamed[name] = value
        return super().set_defaults_with_config(**renamed)

    def parse_args_into_dataclasses(self, args: Any = None, *others: Any, **kwargs: Any) -> Any:
        """As transformers' parser does; an option that no class has is a `DataError` with a guess."""
        names = self.names()
        for word in args or ():
            name = word.partition("=")[0]
            if word.startswith("--") and len(name) > 2 and not any(known.startswith(name[2:]) for known in names):
                known = {f"--{known}" for known in names}
                raise DataError(f"settings: unknown option {name}{did_you_mean(name, known)}")
        return super().parse_args_into_dataclasses(args, *others, **kwargs)


def parse_arguments(recipe: str, classes: Sequence[type], default: Path) -> tuple[Any, ...]:
    """The recipe's settings from command line and YAML, one object per dataclass; ``--help`` knows all fields.

    Raises `DataError` for a setting that cannot be used.
    """
    arguments = config_arguments(sys.argv[1:], default)
    load_plugins(plugins_of_arguments(arguments))  # their tasks and rewards are known before settings are checked
    parser = RecipeParser(tuple(classes), prog=f"accelerate launch recipes/{recipe}.py")
    try:
        parsed = parser.parse_args_and_config(translated(arguments, {*parser.names(), "config", "help"}))
        for part in parsed:
            if isinstance(part, ModelConfig):
                check_model_options(part)
    except yaml.YAMLError as error:
        raise DataError(f"settings: not valid YAML: {error}") from error
    except (ValueError, OSError, TypeError, ImportError, NotImplementedError) as error:
        raise DataError(f"settings: {error}") from error
    first = parsed[0]
    if getattr(first, "use_vllm", False):
        need_module("vllm", "use_vllm", "--use_vllm false")
    if "wandb" in first.report_to:
        need_module("wandb", "--report_to wandb")
    return parsed


def peak_rss_gib() -> float:
    """Largest resident memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def gpu_use(seconds: float) -> dict[str, Any]:
    """``gpu`` of a summary: its name, how many processes had one, GiB at most, hours; empty without a GPU.

    ``peak_gib`` is what PyTorch reserved on the main process's GPU, without a vLLM engine of its own process;
    ``gpu_hours`` are those of all processes.
    """
    if not torch.cuda.is_available():
        return {}
    count = PartialState().num_processes
    hours = seconds / 3600
    peak = torch.cuda.max_memory_reserved() / 2**30
    name = torch.cuda.get_device_name()
    times = {"hours": round(hours, 3), "gpu_hours": round(hours * count, 3)}
    return {"gpu": {"name": name, "count": count, "peak_gib": round(peak, 2), **times}}


def write_summary(
    output_dir: str,
    before: Mapping[str, float],
    after: Mapping[str, float],
    seconds: float,
    settings: Mapping[str, Any],
    **beside: Any,
) -> Path:
    """Write ``summary.json`` of a run folder, whole or not at all.

    ``beside`` stands next to before and after, such as a control's metrics; what is None is left out.
    """
    path = Path(output_dir) / SUMMARY
    content = {
        "before": dict(before),
        "after": dict(after),
        **{name: value for name, value in beside.items() if value is not None},
        "seconds": round(seconds, 1),
        "peak_rss_gib": round(peak_rss_gib(), 2),
        **gpu_use(seconds),
        "settings": dict(settings),
    }
    with atomic_write(path) as out:
        json.dump(content, out, indent=1, default=str)
        out.write("\n")
    return path


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON lines, whole or not at all."""
    with atomic_write(path) as out:
        for record in records:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")


def before_after_table(
    before: Mapping[str, float], after: Mapping[str, float], title: str, blind: Mapping[str, float] | None = None
) -> Table:
    """A table of the metrics that both have; ``blind`` is what can be had without looking, in a column of its own."""
    table = Table(title=title)
    for column in ("metric", *(["blind"] if blind else []), "before", "after", "change"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name in before:
        if name in after and name not in ("n", "seconds"):
            known = [f"{blind[name]:.1f}" if name in blind else ""] if blind else []
            table.add_row(
                name, *known, f"{before[name]:.1f}", f"{after[name]:.1f}", f"{after[name] - before[name]:+.1f}"
            )
    return table


def console() -> Console:
    """Where recipes write for people: standard output of the main process."""
    return Console(quiet=not PartialState().is_main_process, soft_wrap=True, highlight=False)


def forget_later_steps(log: Path, step: int) -> None:
    """Drop what a killed run logged after the checkpoint of ``step``: the resumed run makes those steps again.

    A last line that was cut off goes as well. A log that is not there stays so.
    """
    if not log.is_file():
        return
    kept = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry["step"] <= step:
            kept.append(line)
    with atomic_write(log) as out:
        out.writelines(f"{line}\n" for line in kept)


class OnceLogged(TrainerCallback):
    """Puts numbers that belong to the whole run into its first record; a resumed run has them already.

    To stand before `RunLog` among the callbacks.
    """

    def __init__(self, numbers: Mapping[str, float]) -> None:
        self.numbers = dict(numbers)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step > 0:
            self.numbers.clear()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and state.global_step > 0:
            logs.update(self.numbers)
            self.numbers.clear()


class RunLog(TrainerCallback):
    """A progress bar on a terminal, one short line per logging step, and every number in ``log.jsonl``."""

    SHORT = ("reward", "kl", "entropy", "loss", "step_time", "mean_token_accuracy")

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.started = time.perf_counter()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.started = time.perf_counter()
            Path(str(args.output_dir)).mkdir(parents=True, exist_ok=True)
            forget_later_steps(Path(str(args.output_dir)) / "log.jsonl", state.global_step)
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step", disable=None)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        with (Path(str(args.output_dir)) / "log.jsonl").open("a", encoding="utf-8") as out:
            named = {name.replace("eval_", "eval/", 1): value for name, value in logs.items()}  # as trackers show it
            out.write(json.dumps({"step": state.global_step, **named}, default=float) + "\n")
        if "train_runtime" in logs:
            return
        tasks = sorted({name.split("/")[0] for name in logs if name.endswith("/valid_answers")})
        validated = [name for name in logs if name.startswith("eval_") and name != "eval_n"]
        shown = [*self.SHORT, *(f"{task}/reward" for task in tasks), *validated]
        parts = [f"{name} {float(logs[name]):.3g}" for name in shown if logs.get(name) is not None]
        elapsed = time.perf_counter() - self.started
        tqdm.write(
            f"step {state.global_step}/{state.max_steps}  {elapsed:.0f} s  " + "  ".join(parts),
            file=sys.stdout,
        )
        sys.stdout.flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
