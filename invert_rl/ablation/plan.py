"""From an ablation's config to its jobs: which recipe runs with which fields, in which folder, from which model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trl import ModelConfig

from data_prep.errors import DataError
from data_prep.files import read_json
from invert_rl.ablation.config import AblationConfig, check_known, read_settings
from invert_rl.ablation.jobs import IDENTITY, SFT, Job, write_config
from invert_rl.ablation.recipes import RECIPES, recipe_named
from invert_rl.evaluation.protocols.fields import model_sha256
from invert_rl.recipe.parser import RecipeParser
from invert_rl.schedule import TaskSchedule
from invert_rl.sft.config import InvertSFTConfig
from invert_rl.toy.default import start_checkpoint

ONLY_TRAINING = frozenset(
    {
        *("tasks", "tvg_probability", "verb_match", "verb_reward", "learning_rate", "beta", "max_steps"),
        *("shuffle_videos", "placebo_segments"),
    }
)
"""Fields of a configuration that leave the answers before training as they are."""


RANDOM = "random weights"


def plan(config: AblationConfig, folder: Path) -> list[Job]:
    """The jobs of an ablation, start models first, then seed by seed; ``folder`` is that of its YAML.

    Raises `DataError` for settings that a recipe would refuse, and for a run folder made with other settings.
    """
    if not config.configurations or not config.seeds:
        raise DataError("the config has no configurations or no seeds; name some, as recipes/configs/toy/ablation.yaml")
    if config.parallel < 1:
        raise DataError(f"parallel must be at least 1, found {config.parallel}")
    recipe = recipe_named(config.recipe)
    if not recipe.trained_start and config.start_models:
        raise DataError(f"start_models: {config.recipe} begins from random weights")
    names = list(config.configurations) if config.only is None else config.only
    check_known(names, config.configurations, "--only")
    base = {**read_settings(folder / config.base), **config.common}
    if config.max_steps is not None:
        base["max_steps"] = config.max_steps
    changes = {name: dict(config.configurations[name] or {}) for name in names}
    starts = {name: changed.pop("start", None) for name, changed in changes.items()}
    without = {name: changed.pop("without_rounds_of", None) for name, changed in changes.items()}
    check_known([name for name in without.values() if name], config.configurations, "without_rounds_of")
    made = {start: _start_model(config, start, base, folder) for start in dict.fromkeys(starts.values()) if start}
    jobs = list(made.values())
    worlds: list[int | None] = [*config.worlds] or [None]
    for world, seed, name in product(worlds, config.seeds, names):
        changed, model = changes[name], made.get(starts[name])
        settings = {**base, **changed, "seed": seed}
        if world is not None:
            settings["planted_seed"] = world
        if without[name]:
            settings["max_steps"] = forward_steps({**base, **config.configurations[without[name]], "seed": seed})
        if model is not None:
            settings["model_name_or_path"] = str(model.folder / "model")
        start = model.identity if model else _hash(settings) if recipe.trained_start else RANDOM
        others = {key: value for key, value in changed.items() if key not in ONLY_TRAINING}
        place = f"seed_{seed}" if world is None else f"world_{world}_seed_{seed}"
        job = Job(
            name,
            seed,
            Path(config.output_dir) / "runs" / name / place,
            recipe.script,
            settings,
            {"recipe": recipe.script, "settings": settings, "start": start},
            model.folder if model else None,
            json.dumps([starts[name], others], sort_keys=True) if recipe.trained_start else None,
            world,
        )
        jobs.append(job)
    for job in jobs:
        check_settings(job)
        check_identity(job)
    return jobs


def forward_steps(settings: dict[str, Any]) -> int:
    """Optimizer steps of the rounds that are TVG in a run with those fields of recipes/grpo_invert.py.

    TVG alone for as many steps is that run without its other rounds: the same prompts in the same order, as a task's
    rows are drawn in passes of its own. (A learning rate that changes over the run would change at other steps.)
    """
    schedule = TaskSchedule(
        seed=settings["seed"], tvg_probability=settings["tvg_probability"], tasks=tuple(settings["tasks"])
    )
    accumulated = int(settings.get("gradient_accumulation_steps", 1))
    passes = int(settings.get("steps_per_generation", accumulated)) * int(settings.get("num_iterations", 1))
    steps = max(1, passes // accumulated)
    return steps * sum(schedule(number) in schedule.forward for number in range(int(settings["max_steps"]) // steps))


def _start_model(config: AblationConfig, name: str, base: dict[str, Any], folder: Path) -> Job:
    if name not in config.start_models:
        raise DataError(f"start: no start model {name!r}; start_models has {', '.join(config.start_models) or 'none'}")
    given = dict(config.start_models[name] or {})
    shared = given.pop("base", None)
    settings = {**(read_settings(folder / shared) if shared else {}), **given}
    if settings.get("model_name_or_path", "") is None:
        del settings["model_name_or_path"]
        identity = {"recipe": SFT, "settings": settings, "start": RANDOM}
    else:
        settings.setdefault("model_name_or_path", base.get("model_name_or_path") or start_checkpoint())
        identity = {"recipe": SFT, "settings": settings, "start": _hash(settings)}
    where = Path(config.output_dir) / "start_models" / name
    return Job(name, int(settings.get("seed", 42)), where, SFT, settings, identity)


def _hash(settings: dict[str, Any]) -> str:
    """Content of the start checkpoint: the shipped one can be made anew under the same name."""
    name = settings.get("model_name_or_path") or start_checkpoint()
    return model_sha256(Path(name)) if Path(name).is_dir() else str(name)


def check_settings(job: Job) -> None:
    """Raise `DataError` if the job's recipe would refuse its settings."""
    known = {recipe.script: recipe.arguments for recipe in RECIPES.values()}
    parser = RecipeParser(known[job.recipe]() if job.recipe in known else (InvertSFTConfig, ModelConfig))
    said = StringIO()
    try:
        with redirect_stderr(said), TemporaryDirectory() as folder:
            config = write_config(job, Path(folder))
            parser.parse_args_and_config(["--config", str(config), "--output_dir", str(job.folder)])
    except ValueError as error:
        raise DataError(f"{job.label}: {error}") from error
    except SystemExit as error:
        raise DataError(f"{job.label}: {said.getvalue().strip().splitlines()[-1]}") from error


def check_identity(job: Job) -> None:
    """Raise `DataError` if the job's folder was made with other settings or from another start model."""
    path = job.folder / IDENTITY
    if not path.is_file():
        if job.finished:
            raise DataError(f"{job.folder}: holds a run that is not of an ablation; choose another --output_dir")
        return
    found, wanted = read_json(path), json.loads(json.dumps(job.identity))
    if found == wanted:
        return
    differing = [name for name in ("recipe", "start") if found.get(name) != wanted[name]]
    old, new = found.get("settings", {}), wanted["settings"]
    differing += [
        f"{name} {old.get(name)} instead of {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    raise DataError(
        f"{job.folder}: was made with other settings ({'; '.join(differing)}); choose another --output_dir or delete it"
    )


def of_configurations(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are in the tables."""
    return [job for job in jobs if job.recipe != SFT]
