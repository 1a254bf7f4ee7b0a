"""Key and complete descriptions of actions, as a multimodal LLM or a person wrote them, in one editable JSON file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_json
from invert_rl.tal.annotations import plain_name

KINDS = ("key", "complete")
"""D_key, the most telling moment, and D_complete, the whole course of the action [S]."""
CLASS_NAMES = "class names"
"""Source of `Descriptions` that nobody wrote."""


WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def words_of(text: str) -> list[str]:
    """Words of a text in lower case, without punctuation."""
    return WORD.findall(text.lower())


@dataclass(frozen=True)
class Descriptions:
    """Texts by kind, of classes and, where there are any, of single videos."""

    classes: dict[str, dict[str, str]]
    """``{class: {"key": …, "complete": …}}``."""
    videos: dict[str, dict[str, str]] = field(default_factory=dict)
    """The same by video id."""
    source: str = CLASS_NAMES
    """The file, or `CLASS_NAMES`."""

    def key_texts(self, classes: Sequence[str], videos: Mapping[str, Iterable[str]]) -> list[list[str]]:
        """The key texts of each class: those of its videos, if they have any, else its own.

        ``videos`` gives the classes of each training video. Texts of videos take the place of the class's [C].
        """
        found: list[list[str]] = []
        for name in classes:
            own = [self.videos[video]["key"] for video, names in videos.items() if name in names and self.has(video)]
            found.append(own or [self.classes[name]["key"]])
        return found

    def complete_text(self, video: str, classes: Sequence[str]) -> str:
        """What is reconstructed from a video: its own complete text, else those of its classes one after another [C].

        Without a class, of which nothing is known, it is empty.
        """
        if self.has(video):
            return self.videos[video]["complete"]
        return ". ".join(self.classes[name]["complete"] for name in classes)

    def has(self, video: str) -> bool:
        """Whether the video has texts of its own."""
        return video in self.videos


def from_class_names(classes: Sequence[str]) -> Descriptions:
    """What serves when nothing was written: each class's name as both texts."""
    return Descriptions({name: {kind: plain_name(name) for kind in KINDS} for name in classes})


def read_descriptions(path: Path, classes: Sequence[str] | None = None) -> Descriptions:
    """Descriptions of a JSON file, ``{"classes": {name: {"key", "complete"}}, "videos": {…}}`` or its inner part alone.

    With ``classes`` every one of them must be there. Raises `DataError` that names file and entry.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object of descriptions by class, found {type(content).__name__}")
    inner = content.get("classes", {}) if content.keys() & {"classes", "videos"} else content
    parts = {"classes": inner, "videos": content.get("videos", {}) if inner is not content else {}}
    for part, entries in parts.items():
        if not isinstance(entries, dict):
            raise DataError(f"{path}: {part!r} must be an object, found {type(entries).__name__}")
        for name, texts in entries.items():
            check_texts(texts, f"{path}: {part} {name!r}")
    missing = [name for name in classes or () if name not in parts["classes"]]
    if missing:
        raise DataError(
            f"{path}: no description of {', '.join(map(repr, missing[:5]))} ({len(missing)} classes in all); add them, "
            f"or write them with invert-rl describe-actions --output {path}"
        )
    return Descriptions(parts["classes"], parts["videos"], str(path))


def check_texts(texts: Any, where: str) -> None:
    """Raise `DataError` unless ``texts`` has a text with a word for each of `KINDS`."""
    for kind in KINDS:
        text = texts.get(kind) if isinstance(texts, dict) else None
        if not isinstance(text, str) or not words_of(text):
            raise DataError(f"{where}: {kind!r} must be a text with at least one word, found {text!r}")


def write_descriptions(path: Path, descriptions: Descriptions) -> None:
    """Write the file that `read_descriptions` reads, whole or not at all, for people to edit."""
    content: dict[str, Any] = {"classes": descriptions.classes}
    if descriptions.videos:
        content["videos"] = descriptions.videos
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as out:
        json.dump(content, out, indent=2, ensure_ascii=False)
        out.write("\n")
