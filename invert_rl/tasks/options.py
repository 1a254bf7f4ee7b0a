"""Options about tasks that commands share: plugins, windows, prompt, and how verbs are matched.

Those that are not given are as the model was trained (`invert_rl.described`), else the defaults below.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from invert_rl.described import description_of, description_path
from invert_rl.tasks.base import WINDOW_MODES, WindowMode
from invert_rl.tasks.presets import DEFAULT_PRESET
from invert_rl.tasks.registry import TASKS
from rewards.pipelines import VerbPipeline, load_pipeline
from rewards.verbs import check_options

VERB_DEFAULTS = {"verb_pipeline": None, "verb_match": "all", "verb_guard": "default", "ignore_verbs": "none"}
"""How verbs are found and matched where neither the command line nor a model says."""


def add_task_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup, windows: str = "any") -> None:
    """Declare ``--plugins``, ``--prompt`` and ``--windows``; `invert_rl.cli` has imported the plugins already."""
    parser.add_argument(
        "--plugins", nargs="+", default=[], metavar="P", help="files or modules that register tasks and rewards"
    )
    parser.add_argument(
        "--prompt", metavar="NAME", help=f"preset or a .json file; default: the model's own, else {DEFAULT_PRESET}"
    )
    parser.add_argument(
        "--windows",
        choices=WINDOW_MODES,
        help="queries with several windows: one row per window, any one of them, or all of them; default: all if the "
        f"model was trained so, else {windows}",
    )


def complete_task_arguments(args: argparse.Namespace, windows: WindowMode = "any") -> None:
    """Set ``prompt``, ``windows``, the verb options and ``transformers_positions`` where they are not given."""
    model, revision = getattr(args, "model", None), getattr(args, "revision", None)
    described = description_of(model, revision) if model else {}
    if args.prompt is None:
        args.prompt = str(description_path(str(model), revision)) if "prompt" in described else DEFAULT_PRESET
    if args.windows is None:
        args.windows = "all" if described.get("windows") == "all" else windows
    given = vars(args)
    for name, default in VERB_DEFAULTS.items():
        if name in given and given[name] is None:
            setattr(args, name, described.get("verbs", {}).get(name, default))
    if "transformers_positions" in given and given["transformers_positions"] is None:
        args.transformers_positions = not described.get("trained_positions", True)


def add_verb_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare how verbs are found and matched."""
    parser.add_argument(
        "--verb-pipeline", metavar="NAME", help='spaCy pipeline for verbs, or "shipped"; default: the model\'s, or that'
    )
    parser.add_argument(
        "--verb-match", choices=("all", "any"), help="verbs that VC and VD must have; default: the model's, or all"
    )
    parser.add_argument(
        "--verb-guard",
        choices=("default", "none"),
        help="whether listing verbs costs; none: the paper's eq. 5 to 7 to the letter; if not given: the model's",
    )
    parser.add_argument(
        "--ignore-verbs",
        metavar="VERBS",
        help="verbs that need not be matched: none, aspectual, or lemmas joined by commas; if not given: the model's",
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
    check_options(**options)
    return {**options, "pipeline": pipeline}


def pipeline_for(tasks: Iterable[str], name: str | None) -> VerbPipeline | None:
    """The verb pipeline if one of the tasks needs verbs, else None."""
    return load_pipeline(name) if any(TASKS[task].needs_verbs for task in tasks) else None
