"""Where recipes and their configs lie: beside this package in a clone, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from data_prep.errors import DataError
from invert_rl.one_language import did_you_mean

PACKAGE = Path(__file__).resolve().parent
NAMES = {
    "grpo": "grpo_invert",
    "sft": "sft_invert",
    "actionvlm": "train_actionvlm",
    "psftr": "train_psftr",
    "llavaction": "train_llavaction",
    "wtal": "distill_wtal",
    "ablation": "ablation",
}
"""What ``invert-rl train`` calls each recipe."""


def recipes_folder() -> Path:
    """The folder of the recipes; raises `DataError` where the installation lacks it."""
    for folder in (PACKAGE / "recipes", PACKAGE.parent / "recipes"):
        if (folder / "grpo_invert.py").is_file():
            return folder
    raise DataError(f"{PACKAGE}: the recipes are missing; install invert-rl anew")


def config_path(name: str) -> str:
    """A config as it is given, or the shipped one of that name, such as ``charades_sta/qwen2_5_vl_3b``.

    Raises `DataError` for neither.
    """
    if Path(name).is_file():
        return name
    folder = recipes_folder() / "configs"
    shipped = folder / (name if name.endswith(".yaml") else f"{name}.yaml")
    if shipped.is_file():
        return str(shipped)
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in sorted(folder.rglob("*.yaml"))]
    wanted = name.removesuffix(".yaml").removeprefix("recipes/configs/")
    raise DataError(f"{name}: no such config{did_you_mean(wanted, names) or '; shipped are ' + ', '.join(names)}")
