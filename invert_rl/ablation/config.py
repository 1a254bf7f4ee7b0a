"""What an ablation is: one recipe and base config, configurations that change a few fields of it, seeds, and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from invert_rl.ablation.recipes import RECIPES, AblatedRecipe, recipe_named
from invert_rl.strict_yaml import read_yaml

PLOTS = ("bars", "curve", "steps", "frontier", "none")


@dataclass
class AblationConfig:
    """Settings of ``recipes/ablation.py``; the mappings are meant for its YAML."""

    output_dir: str = field(
        default="runs/ablation", metadata={"help": "Folder of all runs; one that is there already is continued."}
    )
    recipe: str = field(
        default="grpo_invert", metadata={"help": "Recipe that is run, by the name of its file.", "choices": [*RECIPES]}
    )
    base: str = field(
        default="grpo.yaml",
        metadata={"help": "Config of the recipe that all runs share, relative to the ablation's YAML."},
    )
    common: dict[str, Any] = field(default_factory=dict, metadata={"help": "Fields changed in all runs."})
    configurations: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "Name of each configuration and the fields of the recipe that it changes; "
            "`without_rounds_of: NAME` gives it as many steps as that configuration has of TVG."
        },
    )
    start_models: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "Models made first by recipes/sft_invert.py: a name and the recipe's fields, on top of those of a "
            "YAML named by `base`; `model_name_or_path: null` begins from the toy world's random weights. A "
            "configuration starts from one with `start: NAME`."
        },
    )
    tables: list[Any] = field(default_factory=list, metadata={"help": "Tables to make (`Table`)."})
    hypotheses: list[Any] = field(
        default_factory=list,
        metadata={"help": "What is to be decided, all of it one family (`invert_rl.ablation.decisions`)."},
    )
    pairs: int = field(default=2, metadata={"help": "Seeds that both sides of a hypothesis need to be decided."})
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3], metadata={"help": "Seeds of every configuration."})
    worlds: list[int] = field(
        default_factory=list,
        metadata={"help": "Generated worlds (planted_seed) on each of which every seed is run; default: the base's."},
    )
    max_steps: int | None = field(
        default=None, metadata={"help": "Optimizer steps of every run; default: what the configs say."}
    )
    only: list[str] | None = field(default=None, metadata={"help": "Run only these configurations."})
    parallel: int = field(default=1, metadata={"help": "Runs at a time; each gets one thread (OMP_NUM_THREADS)."})
    launcher: str | None = field(
        default=None,
        metadata={"help": "Command that starts a recipe, such as 'accelerate launch'; default: this Python."},
    )
    run: bool = field(default=True, metadata={"help": "Run what is not finished; false: tables of what there is."})
    plots: bool = field(default=True, metadata={"help": "Draw the tables' plots; needs matplotlib."})


@dataclass(frozen=True)
class Table:
    """One table of the result."""

    name: str
    """File name of its plot."""
    title: str
    rows: tuple[str, ...]
    """Names of configurations."""
    metrics: tuple[str, ...] = RECIPES["grpo_invert"].shown
    """What the plot shows."""
    plot: str = "bars"
    """"bars", "curve" (over ``x``), "steps" (over optimizer steps, from the runs' validation), "frontier" (the mean of
    VC, AR and VD over mIoU) or "none"."""
    x: str = "tvg_probability"
    """Field of the configurations that a curve runs over."""
    reference: str | None = None
    """Configuration that the others are compared with, seed by seed."""
    text_only: bool = False
    """Whether to add what the text alone allows (`invert_rl.ablation.guess`)."""
    recipe: AblatedRecipe = RECIPES["grpo_invert"]
    """The table shows all of its metrics."""


def read_tables(config: AblationConfig) -> list[Table]:
    """The tables of a config; raises `DataError` for an unknown field, configuration, metric or plot."""
    known = {item.name for item in fields(Table)} - {"recipe"}
    recipe = recipe_named(config.recipe)
    tables = []
    for number, given in enumerate(config.tables, start=1):
        where = f"tables, entry {number}"
        if not isinstance(given, Mapping) or not {"name", "title", "rows"} <= given.keys() <= known:
            raise DataError(f"{where}: needs name, title and rows, and may have {', '.join(sorted(known))}: {given}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
        }
        table = Table(**{"metrics": recipe.shown, **values, "recipe": recipe})
        used = [*table.rows, *([table.reference] if table.reference else [])]
        check_known(used, config.configurations, where)
        unknown = [name for name in table.metrics if name not in recipe.metrics]
        if unknown:
            raise DataError(f"{where}: metric {unknown[0]!r} is unknown; the metrics are {', '.join(recipe.metrics)}")
        if table.plot not in PLOTS:
            raise DataError(f"{where}: plot {table.plot!r} is unknown; use {', '.join(PLOTS)}")
        tables.append(table)
    return tables


def check_known(names: Sequence[str], configurations: Mapping[str, Any], where: str) -> None:
    """Raise `DataError` if a name is not one of the configurations."""
    unknown = [name for name in names if name not in configurations]
    if unknown:
        raise DataError(f"{where}: no configuration {unknown[0]!r}; there are {', '.join(configurations)}")


def read_settings(path: Path) -> dict[str, Any]:
    """The fields of a recipe's YAML; raises `DataError` if it cannot be read as a mapping."""
    if not path.is_file():
        raise DataError(f"{path}: cannot be read, no such file; paths are relative to the ablation's YAML")
    return read_yaml(path)
