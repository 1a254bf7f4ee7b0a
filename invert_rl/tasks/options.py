"""Options about tasks that commands share: plugins, windows, prompt, and how verbs are matched."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from invert_rl.tasks.base import WINDOW_MODES
from invert_rl.tasks.presets import DEFAULT_PRESET
from invert_rl.tasks.registry import TASKS
from rewards.pipelines import VerbPipeline, load_pipeline
from rewards.verbs import check_options


def add_task_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup, windows: str = "any") -> None:
    """Declare ``--plugins``, ``--prompt`` and ``--windows``; `invert_rl.cli` has imported the plugins already."""
    parser.add_argument(
        "--plugins", nargs="+", default=[], metavar="P", help="files or modules that register tasks and rewards"
    )
    parser.add_argument(
        "--prompt", default=DEFAULT_PRESET, metavar="NAME", help="preset or a .json file; default: %(default)s"
    )
    parser.add_argument(
        "--windows",
        choices=WINDOW_MODES,
        default=windows,
        help="queries with several windows: one row per window, any one of them, or all of them; default: %(default)s",
    )


def add_verb_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare how verbs are found and matched."""
    parser.add_argument("--verb-pipeline", metavar="NAME", help="spaCy pipeline for verbs; default: the shipped one")
    parser.add_argument("--verb-match", choices=("all", "any"), default="all", help="verbs that VC and VD must have")
    parser.add_argument(
        "--verb-guard",
        choices=("default", "none"),
        default="default",
        help="whether listing verbs costs; none: the paper's eq. 5 to 7 to the letter",
    )
    parser.add_argument(
        "--ignore-verbs",
        default="none",
        metavar="VERBS",
        help="verbs that need not be matched: none, aspectual, or lemmas joined by commas; default: %(default)s",
    )


def verb_options(
    pipeline: VerbPipeline | None,
    verb_match: str = "all",
    verb_score: str = "binary",
    verb_guard: str = "default",
    ignore_verbs: str = "none",
) -> dict[str, Any]:
    """What the verb rewards are told; raises `RewardError` for an unknown option."""
    options = {
        "verb_match": verb_match,
        "verb_score": verb_score,
        "verb_guard": verb_guard,
        "ignore_verbs": ignore_verbs,
    }
    check_options(verb_match, verb_score)
    return {**options, "pipeline": pipeline}


def pipeline_for(tasks: Iterable[str], name: str | None) -> VerbPipeline | None:
    """The verb pipeline if one of the tasks needs verbs, else None."""
    return load_pipeline(name) if any(TASKS[task].needs_verbs for task in tasks) else None
