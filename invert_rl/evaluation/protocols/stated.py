"""The parts of a protocol that a command and a training run state alike: how answers are made and how they count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from invert_rl.evaluation.protocols.fields import Protocol, library_versions
from invert_rl.evaluation.protocols.rules import Rules
from invert_rl.evaluation.scores.grounding import THRESHOLDS
from invert_rl.video.settings import FrameSettings
from rewards.pipelines import VerbPipeline
from rewards.verbs import verb_settings

WINDOWS = {
    "split": "one row per window",
    "any": "best of several windows",
    "all": "set IoU of all windows",
}
"""How a protocol line tells ``--windows``."""


def scoring_protocol(
    data: Mapping[str, Any],
    windows: str,
    pipeline: VerbPipeline | None,
    verb_match: str = "all",
    verb_guard: str = "default",
    ignore_verbs: str = "none",
    strict: bool = False,
    published: tuple[str, Rules] | None = None,
) -> Protocol:
    """How answers count.

    ``data`` has name, rows and sha256 of the rows; ``pipeline`` is None where no task has verbs; ``published`` is a
    named protocol, whose rules come before ``windows`` and ``strict``.
    """
    name, rules = published or ("", None)
    verbs = {
        "verbs": f"{pipeline.name} {pipeline.version}".strip() if pipeline else None,
        "verb_match": verb_match if pipeline else None,
        **(verb_settings(verb_guard, ignore_verbs) if pipeline else {}),  # type: ignore[arg-type]
    }
    return {
        "data": dict(data),
        "scoring": {
            "thresholds": list(rules.thresholds if rules else THRESHOLDS),
            "comparison": rules.comparison if rules else ">" if strict else ">=",
            "windows": WINDOWS[windows],
            "no_answer": "IoU 0 without an answer",
            **({"protocol": name, "rules": rules.describe()} if rules else {}),
            **verbs,
        },
        "versions": library_versions(),
    }


def answering_protocol(
    prompt: Mapping[str, str],
    frames: FrameSettings,
    max_new_tokens: int,
    backend: str,
    dtype: str,
    trained_positions: bool,
) -> Protocol:
    """How a model is asked: ``prompt`` is a preset's identity."""
    return {
        "prompt": dict(prompt),
        "frames": asdict(frames),
        "decoding": {
            "method": "greedy",
            "constraints": "none: no repetition penalty, n-gram, length or word list of the checkpoint",
            "max_new_tokens": max_new_tokens,
            "backend": backend,
            "dtype": dtype,
            "positions": "trained" if trained_positions else "transformers",
        },
    }
