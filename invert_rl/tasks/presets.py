"""Prompt presets: the wordings in which the field asks the same question, as named files in ``prompts/``.

A preset is a JSON object. ``layout`` is think, answer or bare; ``template`` makes a prompt of any task from
``{question}``, ``{wanted}`` and ``{example}``; a key with the name of a task is a prompt of its own, a text or
``{"prompt": …, "kind": "span" | "spans" | "span_text" | "text"}``. ``video`` is "first" or "last", ``system`` a system
prompt, ``chat_template_kwargs`` go to the chat template, ``about`` is for readers. Training, supervised fine-tuning,
rating and evaluation take the same presets.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from string import Formatter
from typing import Any

from data_prep.errors import DataError
from data_prep.files import read_json
from invert_rl.described import FILE as DESCRIPTION
from invert_rl.tasks.base import ANSWER, BARE, BUILT_IN, SPANS, TEXT, THINK, WINDOW_MODES, Task, WindowMode

FOLDER = Path(__file__).parent / "prompts"
DEFAULT_PRESET = "think"
LAYOUTS = (THINK, ANSWER, BARE)
KINDS = ("span", "spans", "span_text", "text")
OPTIONS = ("about", "layout", "template", "video", "system", "chat_template_kwargs")
FIELDS = ("query", "sentence", "masked_query", "duration")
"""What a prompt may hold in braces, besides what a task of a plugin fills."""


@dataclass(frozen=True)
class Template:
    """How a preset words any task."""

    layout: str
    text: str

    def fill(self, task: Task) -> str:
        """The prompt of a task, fields of rows still in braces."""
        example = f" {task.example}" if task.example else ""
        return self.text.replace("{question}", task.question).replace("{wanted}", task.wanted) + example


@dataclass(frozen=True)
class Preset:
    """The tasks as one convention words them."""

    name: str
    tasks: dict[str, Task]
    chat_template_kwargs: dict[str, Any]
    """Arguments of the chat template, such as ``enable_thinking``."""

    sha256: str
    """Hash of everything that a model is asked with, 16 hexadecimal digits."""
    content: dict[str, Any]
    """The file's, for a model that says itself how it was trained (`invert_rl.described`)."""

    def only(self, names: Iterable[str]) -> Preset:
        """The preset with those of the tasks that it words."""
        return replace(self, tasks={name: self.tasks[name] for name in names if name in self.tasks})

    def identity(self) -> dict[str, str]:
        """Name and hash, for protocols and summaries."""
        return {"name": self.name, "sha256": self.sha256}

    def description(self) -> dict[str, Any]:
        """Name, hash and content, for ``invert_rl.json``."""
        return {**self.identity(), "content": self.content}


@functools.cache
def default_template() -> Template:
    """How the default preset words any task."""
    content = read_json(FOLDER / f"{DEFAULT_PRESET}.json")
    return Template(content["layout"], content["template"])


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_preset(
    name: str,
    wanted: Sequence[str] = (),
    windows: WindowMode = "any",
    chat_template_kwargs: dict[str, Any] | None = None,
) -> Preset:
    """The preset of that name, or of a JSON file of one's own (the module's text says what it holds).

    ``wanted`` are the tasks that it must word, all others that it can word come with it; ``windows`` is what is asked
    of queries with several windows; ``chat_template_kwargs`` come on top of the file's. Raises `DataError` for an
    unknown name, a task or field of a prompt that does not exist, a task of ``wanted`` without a prompt, and
    ``windows`` "all" where a task that names spans is asked for one only.
    """
    from invert_rl.tasks.registry import TASKS

    own = name.endswith(".json")
    path = Path(name) if own else FOLDER / f"{name}.json"
    if not own and name not in preset_names():
        raise DataError(f"no prompt preset {name!r}; there are {', '.join(preset_names())}, or give a .json file")
    if windows not in WINDOW_MODES:
        raise DataError(f"windows {windows!r} is unknown; use {', '.join(WINDOW_MODES)}")
    content = read_json(path)
    title = path.stem
    if isinstance(content, dict) and path.name == DESCRIPTION:  # of a saved model, which holds its preset
        title, content = content["prompt"]["name"], content["prompt"]["content"]
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object with a prompt for each task, found {type(content).__name__}")
    for key in content:
        if key not in OPTIONS and key not in TASKS:
            raise DataError(f"{path}: {key!r} is neither a task ({', '.join(TASKS)}) nor one of {', '.join(OPTIONS)}")
    options = _options(content, path)
    tasks = {}
    for key, task in TASKS.items():
        asked = _worded(task, content, options, path)
        if asked is not None:
            tasks[key] = replace(asked, windows=windows)
    missing = [task for task in wanted if task not in tasks]
    if missing:
        raise DataError(f"prompt preset {name!r} has no prompt for {', '.join(missing)}; it has {', '.join(tasks)}")
    one = [task for task in wanted if tasks[task].names_spans and not tasks[task].segment and tasks[task].kind != SPANS]
    if windows == "all" and one:
        raise DataError(
            f"windows all asks for every moment, but prompt preset {name!r} asks {', '.join(one)} for one span; use "
            "--prompt spans_json, or --windows any"
        )
    kwargs = {**options["chat_template_kwargs"], **(chat_template_kwargs or {})}
    # A preset is the same whatever plugins are there: their tasks count where they are asked.
    hashed = [name for number, name in enumerate(TASKS) if name in tasks and (number < BUILT_IN or name in wanted)]
    asked_with: list[Any] = [[name, tasks[name].prompt, tasks[name].answer_format] for name in hashed]
    asked_with += [options["video"], options["system"], kwargs]
    digest = sha256(json.dumps(asked_with, sort_keys=True).encode()).hexdigest()[:16]
    return Preset(title, tasks, kwargs, digest, {**content, "chat_template_kwargs": kwargs})


@functools.cache
def reworded(task: Task, name: str) -> Task:
    """``task`` as the shipped preset ``name`` words it; as it is where that preset does not word it.

    Raises `DataError` for a preset that is not shipped, or that has arguments for the chat template.
    """
    if name not in preset_names():
        raise DataError(f"source_prompt {name!r} is no shipped preset; there are {', '.join(preset_names())}")
    preset = load_preset(name)
    if preset.chat_template_kwargs:
        raise DataError(f"preset {name!r} sets the chat template, which only a whole run can (--prompt)")
    other = preset.tasks.get(task.name)
    if other is None:
        return task
    wording = {field: getattr(other, field) for field in ("prompt", "kind", "layout", "video_first", "system")}
    return replace(task, **wording)


def _options(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """What a preset says about all of its prompts, with defaults; raises `DataError` for what it cannot say."""
    options = {"template": "", "video": "first", "system": "", "chat_template_kwargs": {}, **content}
    layout = options.get("layout")
    if layout is not None and layout not in LAYOUTS:
        raise DataError(f"{path}: layout {layout!r} is unknown; use {', '.join(LAYOUTS)}")
    if options["video"] not in ("first", "last"):
        raise DataError(f'{path}: video must be "first" or "last", found {options["video"]!r}')
    for name, kind in (("template", str), ("system", str), ("chat_template_kwargs", dict)):
        if not isinstance(options[name], kind):
            raise DataError(f"{path}: {name} must be {'text' if kind is str else 'an object'}")
    if options["template"] and not {"question", "wanted"} <= _fields(options["template"]):
        raise DataError(f"{path}: the template must hold {{question}} and {{wanted}}")
    return options


def _worded(task: Task, content: dict[str, Any], options: dict[str, Any], path: Path) -> Task | None:
    """The task as the preset words it, None where it does not."""
    given: Any = content.get(task.name)
    kind: Any = task.kind
    if given is None:
        if not options["template"]:
            return None
        prompt = Template("", options["template"]).fill(task)
    else:
        if isinstance(given, dict):
            kind, given = given.get("kind"), given.get("prompt")
        if not isinstance(given, str) or not given.strip():
            raise DataError(f"{path}: {task.name!r} must be a prompt as text, or an object with 'prompt' and 'kind'")
        prompt = given
    layout = options.get("layout") or _layout(prompt)
    if isinstance(content.get(task.name), dict):
        if kind not in KINDS or (kind == TEXT) != (task.kind == TEXT):
            fitting = [name for name in KINDS if (name == TEXT) == (task.kind == TEXT)]
            raise DataError(f"{path}: the kind of {task.name!r} must be {' or '.join(fitting)}, found {kind!r}")
    elif task.names_spans and given is not None:
        kind = SPANS if "[[" in prompt else "span_text" if layout == BARE else task.kind
    known = {*FIELDS, *task.extra_fields}
    try:
        unknown = _fields(prompt) - known
    except ValueError as error:
        raise DataError(f"{path}: the prompt of {task.name!r} cannot be filled ({error})") from error
    if unknown:
        raise DataError(
            f"{path}: the prompt of {task.name!r} holds {{{min(unknown)}}}; only "
            f"{', '.join(f'{{{name}}}' for name in sorted(known))} are filled, other braces are written twice"
        )
    first, system = options["video"] == "first", options["system"]
    return replace(task, prompt=prompt, kind=kind, layout=layout, video_first=first, system=system)


def _layout(prompt: str) -> str:
    """The layout that a prompt asks for in words."""
    return THINK if "<think>" in prompt else ANSWER if "<answer>" in prompt else BARE


def _fields(text: str) -> set[str]:
    return {field for _, field, _, _ in Formatter().parse(text) if field is not None}
