"""Settings about tasks that every recipe on them has: plugins, prompt, windows, and how verbs are matched."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from data_prep.errors import DataError
from invert_rl.tasks import DEFAULT_TASKS
from invert_rl.tasks.base import WINDOW_MODES
from invert_rl.tasks.options import verb_options
from invert_rl.tasks.presets import DEFAULT_PRESET, Preset, load_preset
from invert_rl.tasks.refuse import Refusal
from rewards.pipelines import VerbPipeline


@dataclass
class TaskFields:
    """Mixed into the configs of the trainers."""

    tasks: list[str] = field(
        default_factory=lambda: list(DEFAULT_TASKS),
        metadata={"help": "Tasks to train on: tvg, vc, ar, vd (paper, Table 2), refuse, and those of plugins."},
    )

    plugins: list[str] | None = field(
        default=None, metadata={"help": "Files or modules that register tasks and rewards (docs/extending.md)."}
    )
    prompt: str = field(
        default=DEFAULT_PRESET,
        metadata={"help": "Prompt preset (think, no_think, spans_json, timelens, lmms_eval) or a JSON file."},
    )
    windows: str = field(
        default="split",
        metadata={
            "help": "Queries with several windows: one row per window, any one of them, or all of them as a list.",
            "choices": list(WINDOW_MODES),
        },
    )
    chat_template_kwargs: dict | str | None = field(
        default=None,
        metadata={
            "help": "Arguments of the chat template, on top of the preset's, such as '{\"enable_thinking\": false}'."
        },
    )
    irrelevant_share: float = field(
        default=0.5, metadata={"help": "Task refuse: share of the queries that are not in their video."}
    )
    verb_match: str = field(
        default="all",
        metadata={"help": "VC and VD ask for all ground-truth verbs or any of them.", "choices": ["all", "any"]},
    )
    verb_guard: str = field(
        default="default",
        metadata={
            "help": "Whether listing verbs costs (docs/rewards.md); none: the paper's eq. 5 to 7 to the letter.",
            "choices": ["default", "none"],
        },
    )
    ignore_verbs: str = field(
        default="none",
        metadata={"help": "Verbs that need not be matched: none, aspectual, or lemmas joined by commas."},
    )
    verb_pipeline: str | None = field(
        default=None,
        metadata={"help": "spaCy pipeline for verbs, e.g. en_core_web_sm; default: the shipped one."},
    )

    def preset(self) -> Preset:
        """The tasks as this run words them; raises `DataError` for a preset or windows that do not fit its tasks."""
        kwargs = self.chat_template_kwargs
        if isinstance(kwargs, str):
            try:
                kwargs = json.loads(kwargs)
            except ValueError as error:
                raise DataError(f"chat_template_kwargs: {kwargs!r} is not JSON ({error})") from error
        if kwargs is not None and not isinstance(kwargs, dict):
            raise DataError(f"chat_template_kwargs: expected an object, found {kwargs!r}")
        preset = load_preset(self.prompt, self.tasks, self.windows, kwargs)  # type: ignore[arg-type]
        default = type(self).__dataclass_fields__["irrelevant_share"].default
        if self.irrelevant_share != default and not any(isinstance(preset.tasks[name], Refusal) for name in self.tasks):
            raise DataError("irrelevant_share is for the task refuse, which --tasks leaves out")
        tasks = {
            name: replace(task, irrelevant_share=self.irrelevant_share) if isinstance(task, Refusal) else task
            for name, task in preset.tasks.items()
        }
        return replace(preset, tasks=tasks)

    def verb_options(self, pipeline: VerbPipeline | None, verb_score: str = "binary") -> dict[str, Any]:
        """What the verb rewards are told; ``pipeline`` finds the verbs."""
        return verb_options(pipeline, self.verb_match, verb_score, self.verb_guard, self.ignore_verbs)
