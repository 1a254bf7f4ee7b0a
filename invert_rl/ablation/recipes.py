"""What an ablation has to know of the recipe that it runs: its settings, its metrics, and what its runs begin from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trl import ModelConfig

from data_prep.errors import DataError

VERB_TASKS = ("VC", "AR", "VD")
VERBS = "verbs"
"""The mean of VC, AR and VD."""
GROUNDING = ("mIoU", "R1@0.3", "R1@0.5", "R1@0.7", "wrong_event", *VERB_TASKS, VERBS)
DETECTION = ("average_mAP", *(f"mAP@0.{tenth}" for tenth in range(1, 8)))

GROUPS = tuple(f"{group}/{name}" for group in ("ambiguous", "clear") for name in ("average_mAP", "mLA"))
"""Of ActionVLM's generated classes."""


@dataclass(frozen=True)
class AblatedRecipe:
    """One recipe of ``recipes/`` whose runs can be compared."""

    script: str
    """Its file."""
    metrics: tuple[str, ...]
    """Columns of every table, percent; those that no run has are left empty."""
    shown: tuple[str, ...]
    """What plots show unless a table says otherwise."""
    arguments: Callable[[], tuple[type, ...]]
    """The dataclasses that its settings must fit."""
    scale: float = 1.0
    """What the metrics of its ``summary.json`` are multiplied by to be percent."""
    trained_start: bool = False
    """Whether runs begin from a trained model, whose answers make lines of the tables."""


def _grpo() -> tuple[type, ...]:
    from invert_rl.grpo.config import InvertGRPOConfig

    return InvertGRPOConfig, ModelConfig


def _actionvlm() -> tuple[type, ...]:
    from invert_rl.actionvlm.config import ActionVLMArguments

    return (ActionVLMArguments,)


def _psftr() -> tuple[type, ...]:
    from invert_rl.psftr.config import PSFTRConfig
    from invert_rl.psftr.settings import PSFTRArguments

    return PSFTRArguments, PSFTRConfig


def _wtal() -> tuple[type, ...]:
    from invert_rl.wtal.config import WtalArguments

    return (WtalArguments,)


def _llavaction() -> tuple[type, ...]:
    from invert_rl.llavaction.config import LLaVActionConfig

    return LLaVActionConfig, ModelConfig


RECIPES = {
    "grpo_invert": AblatedRecipe(
        "grpo_invert.py", GROUNDING, ("R1@0.3", "R1@0.5", "R1@0.7"), _grpo, trained_start=True
    ),
    "train_actionvlm": AblatedRecipe(
        "train_actionvlm.py", (*DETECTION, *GROUPS, "LAP"), DETECTION[:1], _actionvlm, 100.0
    ),
    "train_psftr": AblatedRecipe("train_psftr.py", (*DETECTION, "seen_average_mAP"), DETECTION[:1], _psftr, 100.0),
    "train_llavaction": AblatedRecipe(
        "train_llavaction.py", ("MQA", "unparsable", "random/MQA"), ("MQA",), _llavaction
    ),
    "distill_wtal": AblatedRecipe("distill_wtal.py", DETECTION, DETECTION[:1], _wtal, 100.0),
}
"""By the name that an ablation's YAML gives as ``recipe``."""


def recipe_named(name: str) -> AblatedRecipe:
    """The recipe of that name; raises `DataError` for another."""
    if name not in RECIPES:
        raise DataError(f"recipe: {name!r} is none of {', '.join(RECIPES)}")
    return RECIPES[name]
