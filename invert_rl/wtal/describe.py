"""Key and complete descriptions written by a video LLM, kept after each answer so that nothing is asked twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.errors import DataError
from data_prep.files import read_text
from data_prep.progress import progress
from invert_rl.tal.annotations import plain_name
from invert_rl.video.errors import VideoError
from invert_rl.wtal.descriptions import KINDS, Descriptions, words_of, write_descriptions

if TYPE_CHECKING:
    from invert_rl.video.clip import Clip

PROMPT_FOLDER = Path(__file__).with_name("prompts")
ACTION, ACTIONS = "{action}", "{actions}"
"""What a prompt file may hold: the action asked about, and the list of all actions."""

Answer = Callable[[str, "Clip | None"], str]
"""Answers a prompt, about a video where there is one."""


def read_prompts(files: Mapping[str, Path | None]) -> dict[str, str]:
    """The prompts P_key and P_complete of ``files``, or the shipped ones [C].

    Raises `DataError` for a prompt that does not name the action, and for a key prompt without the list of all
    actions, which it must hold [P].
    """
    prompts = {}
    for kind in KINDS:
        path = files.get(kind) or PROMPT_FOLDER / f"{kind}.txt"
        prompts[kind] = read_text(path).strip()
        for mark in (ACTION, ACTIONS) if kind == "key" else (ACTION,):
            if mark not in prompts[kind]:
                raise DataError(f"{path}: the {kind} prompt must hold {mark}, which stands for the name or the list")
    return prompts


def fill(prompt: str, action: str, actions: Sequence[str]) -> str:
    """A prompt with its marks replaced by plain names."""
    return prompt.replace(ACTIONS, ", ".join(map(plain_name, actions))).replace(ACTION, action)


def describe(
    classes: Sequence[str],
    prompts: Mapping[str, str],
    answer: Answer,
    output: Path,
    known: Descriptions,
    videos: Mapping[str, Sequence[str]] | None = None,
    clip: Callable[[str], Clip] | None = None,
) -> tuple[Descriptions, dict[str, str]]:
    """Descriptions of ``classes`` and, with ``clip``, of single ``videos`` (their classes by id), and what failed.

    What is ``known`` is kept and not asked. ``output`` is written after every entry. A video that cannot be decoded
    is left out with its reason. Raises `DataError` for an answer without a word.
    """
    found = Descriptions(dict(known.classes), dict(known.videos), str(output))
    for name in progress(list(classes), "classes"):
        if name not in found.classes:
            found.classes[name] = _ask(prompts, plain_name(name), classes, answer, None, f"class {name!r}")
            write_descriptions(output, found)
    left_out: dict[str, str] = {}
    for video, names in progress(list((videos or {}).items()), "videos"):
        if clip is None or video in found.videos:
            continue
        try:
            frames = clip(video)
        except VideoError as error:
            left_out[video] = str(error)
            continue
        action = ", ".join(map(plain_name, names))
        found.videos[video] = _ask(prompts, action, classes, answer, frames, f"video {video!r}")
        write_descriptions(output, found)
    write_descriptions(output, found)
    return found, left_out


def _ask(
    prompts: Mapping[str, str], action: str, actions: Sequence[str], answer: Answer, clip: Clip | None, where: str
) -> dict[str, str]:
    texts = {}
    for kind in KINDS:
        text = " ".join(answer(fill(prompts[kind], action, actions), clip).split()).strip("\"' ")
        if not words_of(text):
            raise DataError(
                f"{where}: the model's {kind} description has no word; change the prompt or write it by hand"
            )
        texts[kind] = text
    return texts
